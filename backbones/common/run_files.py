"""Names of the files in the folder of a training run."""

CONFIG_FILE = "config.yaml"  # all options, as --config and --resume read them
LOG_FILE = "metrics.jsonl"  # a line for each logged step and each evaluation
MODEL_FILE = "model.safetensors"  # the delivered weights, with a header
RESULTS_FILE = "results.json"  # metrics of the delivered weights
