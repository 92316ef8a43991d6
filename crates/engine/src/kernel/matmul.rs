//! Matrix products.
//!
//! Two forms cover forward and backward: rows times a packed matrix, and the transpose of rows
//! times a packed matrix (a weight gradient). An output element is `fma(a[k-1], b[k-1], … fma(a[0],
//! b[0], start))`, one chain from the first term to the last whatever the tile that holds it.

use pulp::{Simd, WithSimd};

use super::{Cpu, Packed};

/// What happens to the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    /// Start the chain at zero.
    Set,
    /// Start the chain at what is there.
    Add,
}

/// `c[m×n] (+)= a[m×k] · b[k×n]`, with `k ≤ b.k()` and `n ≤ b.n()` (prefixes of `b`).
///
/// `a` and `c` have rows every `lda` and `ldc` numbers.
#[expect(clippy::too_many_arguments, reason = "the usual arguments of a matrix product")]
pub(crate) fn matmul(
    cpu: Cpu,
    (m, k, n): (usize, usize, usize),
    a: &[f32],
    lda: usize,
    b: &Packed,
    c: &mut [f32],
    ldc: usize,
    into: Into,
) {
    product(cpu, Product { m, k, n, a, lda, b, c, ldc, into, transposed: false });
}

/// `c[m×n] (+)= aᵀ · b[k×n]`, where `a` has `k` rows of at least `m` numbers.
#[expect(clippy::too_many_arguments, reason = "the usual arguments of a matrix product")]
pub(crate) fn matmul_transposed(
    cpu: Cpu,
    (m, k, n): (usize, usize, usize),
    a: &[f32],
    lda: usize,
    b: &Packed,
    c: &mut [f32],
    ldc: usize,
    into: Into,
) {
    product(cpu, Product { m, k, n, a, lda, b, c, ldc, into, transposed: true });
}

fn product(cpu: Cpu, p: Product<'_>) {
    assert!(p.k <= p.b.k() && p.n <= p.b.n(), "a prefix of the packed matrix");
    if p.m > 0 && p.n > 0 {
        cpu.run(p);
    }
}

/// Most rows of a tile: twelve rows of two vectors fill AVX-512's registers.
const MOST_ROWS: usize = 12;
/// Widest panel.
const MOST_COLUMNS: usize = 32;

struct Product<'a> {
    m: usize,
    k: usize,
    n: usize,
    a: &'a [f32],
    lda: usize,
    b: &'a Packed,
    c: &'a mut [f32],
    ldc: usize,
    into: Into,
    transposed: bool,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (self.transposed, self.b.width()) {
            (false, 32) => panels::<S, 32, false>(simd, self),
            (false, _) => panels::<S, 16, false>(simd, self),
            (true, 32) => panels::<S, 32, true>(simd, self),
            (true, _) => panels::<S, 16, true>(simd, self),
        }
    }
}

#[inline(always)]
fn panels<S: Simd, const W: usize, const T: bool>(simd: S, mut p: Product<'_>) {
    for panel in 0..p.n.div_ceil(W) {
        let mut i = 0;
        if S::F32_LANES >= 16 {
            while i + 12 <= p.m {
                strip::<S, 12, W, T>(simd, &mut p, i, panel);
                i += 12;
            }
            while i + 4 <= p.m {
                strip::<S, 4, W, T>(simd, &mut p, i, panel);
                i += 4;
            }
        } else {
            while i + 6 <= p.m {
                strip::<S, 6, W, T>(simd, &mut p, i, panel);
                i += 6;
            }
            while i + 2 <= p.m {
                strip::<S, 2, W, T>(simd, &mut p, i, panel);
                i += 2;
            }
        }
        while i < p.m {
            strip::<S, 1, W, T>(simd, &mut p, i, panel);
            i += 1;
        }
    }
}

/// `R` rows of one panel.
#[inline(always)]
fn strip<S: Simd, const R: usize, const W: usize, const T: bool>(
    simd: S,
    p: &mut Product<'_>,
    i: usize,
    panel: usize,
) {
    let first = panel * W;
    let columns = W.min(p.n - first);
    let b = &p.b.panel(panel)[..p.k * W];
    let a = if T { &p.a[i..] } else { &p.a[i * p.lda..] };
    let (k, lda, add) = (p.k, p.lda, p.into == Into::Add);
    if columns == W {
        let c = &mut p.c[i * p.ldc + first..];
        tiles::<S, R, W, T>(simd, k, a, lda, b, c, p.ldc, W, add);
    } else {
        // A whole tile on the side, of which the columns that exist are kept.
        let mut side = [0.0f32; MOST_ROWS * MOST_COLUMNS];
        if add {
            for r in 0..R {
                let row = &p.c[(i + r) * p.ldc + first..][..columns];
                side[r * W..][..columns].copy_from_slice(row);
            }
        }
        tiles::<S, R, W, T>(simd, k, a, lda, b, &mut side, W, columns, add);
        for r in 0..R {
            let row = &mut p.c[(i + r) * p.ldc + first..][..columns];
            row.copy_from_slice(&side[r * W..][..columns]);
        }
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "inlined into its only caller")]
fn tiles<S: Simd, const R: usize, const W: usize, const T: bool>(
    simd: S,
    k: usize,
    a: &[f32],
    lda: usize,
    b: &[f32],
    c: &mut [f32],
    ldc: usize,
    columns: usize,
    add: bool,
) {
    let lanes = S::F32_LANES;
    let mut v = 0;
    if W / lanes >= 2 {
        while v * lanes < columns {
            tile::<S, R, 2, W, T>(simd, k, a, lda, b, v, &mut c[v * lanes..], ldc, add);
            v += 2;
        }
    } else {
        tile::<S, R, 1, W, T>(simd, k, a, lda, b, v, c, ldc, add);
    }
}

/// `R` rows by `V` vectors, held in registers over the whole of `k`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "inlined into its only caller")]
fn tile<S: Simd, const R: usize, const V: usize, const W: usize, const T: bool>(
    simd: S,
    k: usize,
    a: &[f32],
    lda: usize,
    b: &[f32],
    v: usize,
    c: &mut [f32],
    ldc: usize,
    add: bool,
) {
    let size = V * S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    if add {
        for (r, sum) in sums.iter_mut().enumerate() {
            sum.copy_from_slice(S::as_simd_f32s(&c[r * ldc..][..size]).0);
        }
    }
    let b = S::as_simd_f32s(b).0;
    let rows = b.chunks_exact(W / S::F32_LANES);
    if T {
        for (row, a) in rows.zip(a.chunks(lda)) {
            let (row, a) = (&row[v..v + V], &a[..R]);
            for r in 0..R {
                let x = simd.splat_f32s(a[r]);
                for j in 0..V {
                    sums[r][j] = simd.mul_add_f32s(x, row[j], sums[r][j]);
                }
            }
        }
    } else {
        let a: [&[f32]; R] = std::array::from_fn(|r| &a[r * lda..][..k]);
        for (i, row) in rows.enumerate().take(k) {
            let row = &row[v..v + V];
            for r in 0..R {
                let x = simd.splat_f32s(a[r][i]);
                for j in 0..V {
                    sums[r][j] = simd.mul_add_f32s(x, row[j], sums[r][j]);
                }
            }
        }
    }
    for (r, sum) in sums.iter().enumerate() {
        S::as_mut_simd_f32s(&mut c[r * ldc..][..size]).0.copy_from_slice(sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        #[expect(clippy::cast_precision_loss, reason = "small")]
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0).collect()
    }

    /// The definition: one chain of fused multiply-adds per element.
    fn chain(m: usize, k: usize, n: usize, a: impl Fn(usize, usize) -> f32, b: &[f32]) -> Vec<f32> {
        let mut c = vec![0.0f32; m * n];
        for i in 0..m {
            for j in 0..n {
                for l in 0..k {
                    c[i * n + j] = a(i, l).mul_add(b[l * n + j], c[i * n + j]);
                }
            }
        }
        c
    }

    const SHAPES: [(usize, usize, usize); 10] = [
        (1, 1, 1),
        (1, 128, 384),
        (3, 5, 7),
        (12, 8, 16),
        (13, 32, 33),
        (64, 32, 128),
        (17, 128, 8),
        (29, 16, 31),
        (6, 64, 264),
        (50, 3, 96),
    ];

    #[test]
    fn every_element_is_the_chain_bit_for_bit() {
        let cpu = Cpu::detect();
        for (m, k, n) in SHAPES {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let packed = Packed::of(&b, k, n);
            let mut c = vec![f32::NAN; m * n];
            matmul(cpu, (m, k, n), &a, k, &packed, &mut c, n, Into::Set);
            assert_eq!(c, chain(m, k, n, |i, l| a[i * k + l], &b), "{m}x{k}x{n}");
            let at = numbers(k * m, 3);
            matmul_transposed(cpu, (m, k, n), &at, m, &packed, &mut c, n, Into::Set);
            assert_eq!(c, chain(m, k, n, |i, l| at[l * m + i], &b), "transposed {m}x{k}x{n}");
        }
    }

    #[test]
    fn adding_continues_the_chain() {
        let cpu = Cpu::detect();
        let (m, k, n) = (14, 40, 50);
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let mut whole = vec![0.0; m * n];
        matmul(cpu, (m, k, n), &a, k, &Packed::of(&b, k, n), &mut whole, n, Into::Set);
        let mut parts = vec![0.0; m * n];
        let (head, tail) = b.split_at(15 * n);
        matmul(cpu, (m, 15, n), &a, k, &Packed::of(head, 15, n), &mut parts, n, Into::Set);
        let rest = Packed::of(tail, 25, n);
        matmul(cpu, (m, 25, n), &a[15..], k, &rest, &mut parts, n, Into::Add);
        assert_eq!(whole, parts);
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let cpu = Cpu::detect();
        let (m, k, n) = (37, 64, 264);
        let (a, b) = (numbers(m * k, 4), numbers(k * n, 5));
        let packed = Packed::of(&b, k, n);
        let mut all = vec![0.0; m * n];
        matmul(cpu, (m, k, n), &a, k, &packed, &mut all, n, Into::Set);
        for i in 0..m {
            let mut one = vec![0.0; n];
            matmul(cpu, (1, k, n), &a[i * k..], k, &packed, &mut one, n, Into::Set);
            assert_eq!(one, all[i * n..][..n], "row {i}");
        }
    }

    #[test]
    fn packing_forms_agree() {
        let w = numbers(40 * 24, 6);
        let by_transpose = Packed::of_transposed(&w, 40, 24);
        let back = by_transpose.transposed();
        let direct = Packed::of(&w, 40, 24);
        assert_eq!(back.panel(0), direct.panel(0));
        let mut reused = Packed::zeros(64, 70);
        reused.fill(&numbers(64 * 70, 7), 64, 70, 70);
        reused.fill(&w, 40, 24, 24);
        assert_eq!(reused.panel(0), direct.panel(0));
        let mut columns = Packed::zeros(24, 40);
        let mut rows = Packed::zeros(40, 24);
        for (i, row) in w.chunks(24).enumerate() {
            columns.set_column(i, row);
            rows.set_row(i, row);
        }
        assert_eq!(columns.panel(1), by_transpose.panel(1));
        assert_eq!(rows.panel(0), direct.panel(0));
    }

    #[test]
    fn instruction_sets_agree_bit_for_bit() {
        for (m, k, n) in SHAPES {
            let (a, b) = (numbers(m * k, 8), numbers(k * n, 9));
            let packed = Packed::of(&b, k, n);
            let run = |cpu: &Cpu| {
                let mut c = vec![0.0; m * n];
                matmul(*cpu, (m, k, n), &a, k, &packed, &mut c, n, Into::Set);
                c
            };
            let all: Vec<_> = Cpu::available().iter().map(run).collect();
            assert!(all.iter().all(|c| *c == all[0]), "{m}x{k}x{n}");
        }
    }
}
