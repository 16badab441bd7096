"""One update of the parameters: objectives, optimisers and the train step."""
