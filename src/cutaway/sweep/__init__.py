"""Statistics of every unit over a whole data set: values that merge to the bit in any order."""
