"""What a cascade is worth: suites of prompts, pictures of them, metrics with intervals, two models side by side."""
