"""Pictures and HTML, made in one place so that colours and tone agree."""
