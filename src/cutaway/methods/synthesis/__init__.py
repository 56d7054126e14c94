"""Pictures the network draws itself: what a class, a unit or a layer asks of the pixels."""
