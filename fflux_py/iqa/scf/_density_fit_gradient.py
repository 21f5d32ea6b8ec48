"""Nuclear gradient of the density-fitted Coulomb and exact-exchange energy of a closed-shell determinant.

Every product of two doubly occupied orbitals is fitted in the Coulomb metric, phi_a phi_b = sum_P T_ab^P chi_P with
T_ab = V^-1 (ab|P) and V_PQ = (P|Q).  With d_P = 2 sum_a T_aa^P, the fit of the density, the energies are

    E_J = 1/2 sum_PQ d_P V_PQ d_Q,        E_K = -c sum_ab sum_PQ T_ab^P V_PQ T_ab^Q,

and, as T is the stationary point of 2 sum_P T^P (ab|P) - sum_PQ T^P V_PQ T^Q, their gradient at fixed orbital
coefficients needs no derivative of T, only derivatives of integrals, each with its density:

    grad (E_J + E_K) = sum_ijP G_ij^P grad (ij|P) + sum_PQ g_PQ grad (P|Q),
    G_ij^P = D_ij d_P - 2 c sum_ab C_ia C_jb T_ab^P,    g_PQ = -1/2 d_P d_Q + c sum_ab T_ab^P T_ab^Q

(Coulomb: K. Eichkorn, O. Treutler, H. Oehm, M. Haeser, R. Ahlrichs, Chem. Phys. Lett. 240, 283 (1995); exchange:
J. Bostroem, F. Aquilante, T. B. Pedersen, R. Lindh, J. Chem. Theory Comput. 9, 204 (2013)).  Nothing of the size of a
derivative of the Fock matrix appears.  An integral does not change when its three centres move together, so that the
derivative by the centre of P is minus the sum of the other two, and these are equal by the symmetry of G in i and j:
the integrals (grad i j|P) suffice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.linalg

from fflux_py.errors import InputError
from fflux_py.iqa.scf._pyscf import independent_root, load_pyscf, sum_by_atom
from fflux_py.typing import FloatArray

# Small blocks stay in the cache of the processor between the integrals and the products they enter.
_BLOCK_BYTES = 32 * 2**20


def density_fit_gradient(
    mole: Any,
    auxiliary: Any,
    orbitals: FloatArray,
    exchange_fraction: float,
    block_bytes: int = _BLOCK_BYTES,
) -> FloatArray:
    """Gradient of the fitted two-electron energy at fixed orbital coefficients.

    It is the two-electron part of the gradient of restricted Kohn-Sham or Hartree-Fock theory, without the local
    functional and without the response of the orbitals (the term with the energy-weighted density).

    Parameters
    ----------
    mole
        PySCF's molecule with its basis, Cartesian or spherical.
    auxiliary
        The fitting functions on the same atoms, from PySCF's ``df.addons.make_auxmol``.
    orbitals
        Coefficients of the doubly occupied orbitals, shape ``(n_basis, n_occupied)``; the density matrix is
        D = 2 C C^T.  Any rotation among them gives the same result.
    exchange_fraction
        The factor c of the exact exchange, 1 in Hartree-Fock theory.  With 0 no exchange is computed.
    block_bytes
        About how much memory the three-centre integrals may take at a time; one shell of fitting functions always
        fits.  Besides, a few arrays of ``n_auxiliary`` squared and the fits of all pairs of orbitals are held.

    Returns
    -------
    FloatArray
        Derivative of the energy by the position of each nucleus in hartree/bohr, shape ``(n_atoms, 3)``.

    Raises
    ------
    InputError
        ``orbitals`` are not of this shape.
    """
    orbitals = np.ascontiguousarray(orbitals, dtype=np.float64)
    if orbitals.ndim != 2 or len(orbitals) != mole.nao or not orbitals.shape[1]:
        raise InputError("orbitals", f"shape ({mole.nao}, n_occupied)", str(orbitals.shape))
    pairs = None
    if exchange_fraction:
        pairs = _fit_pairs(mole, auxiliary, orbitals, block_bytes)
        rows, columns = np.triu_indices(orbitals.shape[1])
        fit = 2.0 * pairs[rows == columns].sum(axis=0)
    else:
        fit = _fit_density(mole, auxiliary, orbitals, block_bytes)
    on_orbital, on_fitting = _three_centre_gradient(
        mole, auxiliary, orbitals, fit, pairs, exchange_fraction, block_bytes
    )
    on_fitting += _two_centre_gradient(auxiliary, fit, pairs, exchange_fraction)
    return sum_by_atom(mole, on_orbital) + sum_by_atom(auxiliary, on_fitting)


def _fit_pairs(mole: Any, auxiliary: Any, orbitals: FloatArray, block_bytes: int) -> FloatArray:
    """Coefficients T of the fit of all products of two orbitals a <= b, shape ``(n_pairs, n_auxiliary)``."""
    unpack = load_pyscf().lib.unpack_tril
    n_basis, n_occupied = orbitals.shape
    rows, columns = np.triu_indices(n_occupied)
    products = np.empty((len(rows), auxiliary.nao))
    for first, last, packed in _three_centre(mole, auxiliary, "int3c2e", block_bytes):
        square = unpack(packed).reshape(-1, n_basis)
        half = (square @ orbitals).reshape(last - first, n_basis, n_occupied)
        products[:, first:last] = np.matmul(orbitals.T, half)[:, rows, columns].T
    return _solve_metric(auxiliary, products)


def _fit_density(mole: Any, auxiliary: Any, orbitals: FloatArray, block_bytes: int) -> FloatArray:
    """Coefficients d of the fit of the density, shape ``(n_auxiliary,)``."""
    density = 2.0 * orbitals @ orbitals.T
    # Each pair of two functions stands once among the integrals, twice in the density.
    weighted = 2.0 * density - np.diag(np.diag(density))
    packed_density = weighted[np.tril_indices(len(density))]
    potential = np.empty((1, auxiliary.nao))
    for first, last, packed in _three_centre(mole, auxiliary, "int3c2e", block_bytes):
        potential[0, first:last] = packed @ packed_density
    return _solve_metric(auxiliary, potential).ravel()


def _solve_metric(auxiliary: Any, right: FloatArray) -> FloatArray:
    """Return V^-1 times each row of ``right``, which is overwritten."""
    metric = auxiliary.intor("int2c2e")
    try:
        factor = scipy.linalg.cho_factor(metric, lower=True)
    except scipy.linalg.LinAlgError:
        root = independent_root(metric)
        return np.asarray((right @ root.T) @ root)
    return np.asarray(scipy.linalg.cho_solve(factor, right.T, overwrite_b=True).T)


def _three_centre_gradient(
    mole: Any,
    auxiliary: Any,
    orbitals: FloatArray,
    fit: FloatArray,
    pairs: FloatArray | None,
    exchange_fraction: float,
    block_bytes: int,
) -> tuple[FloatArray, FloatArray]:
    """Contributions of the derivatives of (ij|P) to each orbital basis function and to each fitting function."""
    density = 2.0 * orbitals @ orbitals.T
    on_orbital = np.zeros((3, mole.nao))
    on_fitting = np.empty((3, auxiliary.nao))
    for first, last, integrals in _three_centre(mole, auxiliary, "int3c2e_ip1", block_bytes):
        if pairs is None:
            three_index = fit[first:last, None, None] * density
        else:
            three_index = _three_index_density(orbitals, fit[first:last], pairs[:, first:last], exchange_fraction)
        # Minus: the integrals hold derivatives by the electron; twice: that by the centre of j is the same again.
        contracted = -2.0 * np.einsum("pji,xpji->xpi", three_index, integrals)
        on_orbital += contracted.sum(axis=1)
        on_fitting[:, first:last] = -contracted.sum(axis=2)
    return on_orbital, on_fitting


def _three_index_density(
    orbitals: FloatArray, fit: FloatArray, pairs: FloatArray, exchange_fraction: float
) -> FloatArray:
    """The density G for some fitting functions, of ``fit`` and ``pairs``: ``(n_fitting, n_basis, n_basis)``."""
    n_basis, n_occupied = orbitals.shape
    rows, columns = np.triu_indices(n_occupied)
    of_pairs = np.empty((len(fit), n_occupied, n_occupied))
    of_pairs[:, rows, columns] = (-2.0 * exchange_fraction) * pairs.T
    of_pairs[:, columns, rows] = of_pairs[:, rows, columns]
    # D = 2 C C^T: the Coulomb part is a multiple of the unit matrix.
    diagonal = np.arange(n_occupied)
    of_pairs[:, diagonal, diagonal] += 2.0 * fit[:, None]
    half = np.matmul(orbitals, of_pairs).reshape(-1, n_occupied)
    return np.asarray((half @ orbitals.T).reshape(len(fit), n_basis, n_basis))


def _two_centre_gradient(
    auxiliary: Any, fit: FloatArray, pairs: FloatArray | None, exchange_fraction: float
) -> FloatArray:
    """Contribution of the derivatives of (P|Q) to each fitting function, shape ``(3, n_auxiliary)``."""
    two_index = -0.5 * np.outer(fit, fit)
    if pairs is not None:
        rows, columns = np.triu_indices(round((2 * len(pairs)) ** 0.5 - 0.5))
        weighted = np.where(rows == columns, 1.0, np.sqrt(2.0))[:, None] * pairs
        two_index += exchange_fraction * (weighted.T @ weighted)
    integrals = auxiliary.intor("int2c2e_ip1")
    return np.asarray(-2.0 * np.einsum("pq,xpq->xp", two_index, integrals))


def _three_centre(mole: Any, auxiliary: Any, name: str, block_bytes: int) -> Iterator[tuple[int, int, FloatArray]]:
    """Iterate over blocks of fitting functions [first, last) with their integrals.

    Yields ``first``, ``last`` and a view of a buffer that the next block overwrites: ``(3, n, n_basis, n_basis)``
    with the differentiated function last for ``int3c2e_ip1``, the lower triangles ``(n, n_basis (n_basis + 1) / 2)``
    for ``int3c2e``.
    """
    pyscf = load_pyscf()
    derivative = name == "int3c2e_ip1"
    # Fortran's order without a copy: the index that PySCF names first is contiguous.
    per_function = 3 * mole.nao**2 if derivative else mole.nao * (mole.nao + 1) // 2
    offsets = auxiliary.ao_loc_nr()
    # The density or the unpacked integrals come beside the integrals.
    limit = max(block_bytes // (8 * (per_function + mole.nao**2)), int(np.diff(offsets).max()))
    buffer = np.empty(limit * per_function)
    optimizer = pyscf.gto.moleintor.make_cintopt(mole._atm, mole._bas, mole._env, mole._add_suffix(name))
    shell = 0
    while shell < auxiliary.nbas:
        end = int(np.searchsorted(offsets, offsets[shell] + limit, side="right")) - 1
        block = pyscf.df.incore.aux_e2(
            mole,
            auxiliary,
            name,
            aosym="s1" if derivative else "s2ij",
            out=buffer,
            cintopt=optimizer,
            shls_slice=(0, mole.nbas, 0, mole.nbas, shell, end),
            comp=3 if derivative else 1,
        )
        order = (0, 3, 2, 1) if derivative else (1, 0)
        yield int(offsets[shell]), int(offsets[end]), block.transpose(order)
        shell = end
