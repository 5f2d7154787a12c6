"""Find what is wrong in a labelled set: wrong labels, images of nothing it knows, copies."""
