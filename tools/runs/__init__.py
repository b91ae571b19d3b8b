"""Reading finished runs: folder, log, headline metrics, predictions, and bootstrap over images."""
