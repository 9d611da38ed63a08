"""What one sees and clicks in the notebooks. The only home of ipywidgets and IPython."""
