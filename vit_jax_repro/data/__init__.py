"""Images and labels: data sets, preprocessing, batches, class names."""
