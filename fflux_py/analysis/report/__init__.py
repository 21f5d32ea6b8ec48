"""Reports and pictures: one self-contained HTML file; the only room that imports matplotlib."""
