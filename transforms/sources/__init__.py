"""Where records come from: files are found, read and loaded unchanged."""
