"""From pairs to a published dataset: sources, download, scores, selection, publishing, and the lake of tables."""
