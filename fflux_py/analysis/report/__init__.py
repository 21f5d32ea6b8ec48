"""Reports and pictures: one self-contained HTML file.  The only room that imports matplotlib.

Nothing is imported here.

``page``, ``page_style``
    The HTML page: sections, tables, pictures, verdict; its style sheet.
``sections``, ``ramachandran_section``
    What a report says about data, validation, optimisation, runs and backbone torsions.
``runs``
    The report of molecular dynamics runs, which ``fflux report`` writes.
``drawing``
    Palette and style of all pictures; SVG and PNG.
``prediction_plots``, ``trajectory_plots``, ``ramachandran_plots``, ``certificate_plots``
    The pictures.
"""
