"""Images and labels: data sets, preprocessing, batches and class names."""
