"""The methods: one strategy a file, or a folder where it brings native code."""
