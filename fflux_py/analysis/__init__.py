"""Analysis of models and runs: error tables, statistics, maps, reports.

Nothing is imported here: the numerical modules need numpy only, the pictures need matplotlib, and neither should cost
anything until it is asked for.

``prediction_errors``, ``criteria``
    Error tables of predictions against reference labels; figures held against thresholds.
``statistics``
    Means of correlated series with honest standard errors, autocorrelation times, drifts.
``geometry``, ``spectrum``
    Bonds, angles, torsions and RMSD over trajectories; vibrational spectra.
``calibration``
    Coverage of predictive deviations, and the factors that calibrate them.
``validate``
    A force field against the held-out part of a data set.
``runs``
    The folder of a molecular dynamics run: read, analysed, and compared with the criteria of a stable run.
``visited``
    Criteria on what a run visited.
``ramachandran``
    Free energies over the backbone torsions of a peptide, populations, standard errors; with and without bias.
``report``
    One self-contained HTML file and its pictures: data, validation, optimisation and runs.  The only room that imports
    matplotlib.
"""
