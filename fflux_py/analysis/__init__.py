"""Numbers, pictures and reports from predictions and trajectories.

Nothing is imported here: the numerical modules need numpy only, the pictures need matplotlib, and neither should cost
anything until it is asked for.

``errors``, ``criteria``
    Error tables of predictions against reference labels; figures held against thresholds.
``statistics``
    Means of correlated series with honest standard errors, autocorrelation times, drifts.
``geometry``
    Bonds, angles, torsions and RMSD over trajectories.
``ramachandran``, ``ramachandran_regions``, ``ramachandran_comparison``, ``ramachandran_runs``
    Free energies over the backbone torsions of a peptide, populations, standard errors; with and without bias.
``calibration``
    Coverage of predictive deviations, and the factors that set it right.
``validate``
    A force field against the held-out part of a data set.
``runs``
    The folder of a molecular dynamics run, read back and judged.
``plots``, ``trajectory_plots``, ``ramachandran_plots``, ``drawing``
    Pictures of predictions, of trajectories and structures; their common style and the way to SVG and PNG.
``report``, ``sections``, ``ramachandran_section``, ``run_report``
    One self-contained HTML file; what it says about data, validation, optimisation and runs; the report of a run.
"""
