//! Work on rows: norms, rotary positions, softmax, the gated activation.
//!
//! A sum over a row adds element `i` to lane `i mod 16` and then folds the lanes in halves, so that
//! trailing zeros (masked keys) do not change it and every vector width gives the same bits.

use pulp::{Simd, WithSimd};

use super::Cpu;
use super::elementary::{exp, logarithm};

const LANES: usize = 16;

/// `Σ f(i)` through the lanes.
#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = chunk[i].mul_add(chunk[i], lanes[i]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(tail) {
        *lane = x.mul_add(x, *lane);
    }
    fold(lanes)
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] = a[i].mul_add(b[i], lanes[i]);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_tail).zip(b_tail) {
        *lane = a.mul_add(b, *lane);
    }
    fold(lanes)
}

#[inline(always)]
fn maximum(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(tail) {
        *lane = if x > *lane { x } else { *lane };
    }
    lanes.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// `x ← e^(scale·(x − top))`, and the sum of the results.
#[inline(always)]
fn exponentiate(x: &mut [f32], scale: f32, top: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, tail) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            chunk[i] = exp(scale * (chunk[i] - top));
            lanes[i] += chunk[i];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *x = exp(scale * (*x - top));
        *lane += *x;
    }
    fold(lanes)
}

#[expect(clippy::cast_precision_loss, reason = "row lengths are far below 2²⁴")]
#[inline(always)]
fn length(x: &[f32]) -> f32 {
    x.len() as f32
}

/// Declares functions that are compiled once per instruction set.
///
/// A closure would do, were it sure to be inlined into the code that has the instructions; where
/// it is not, each fused multiply-add becomes a library call.
macro_rules! kernels {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) -> $out:ty $body:block)*) => {
        $(
            $(#[$meta])*
            pub(crate) fn $name<'a>(cpu: Cpu, $($arg: $type),*) -> $out {
                struct Work<'a> {
                    $($arg: $type),*
                }
                impl<'a> WithSimd for Work<'a> {
                    type Output = $out;

                    #[inline(always)]
                    fn with_simd<S: Simd>(self, _: S) -> $out {
                        let Self { $($arg),* } = self;
                        $body
                    }
                }
                cpu.run(Work { $($arg),* })
            }
        )*
    };
}

kernels! {
    /// Root-mean-square norm of each row of `weight.len()` numbers; keeps each row's factor. A row
    /// whose squares overflow becomes NaN: zeros would be a plausible answer, and a wrong one.
    fn rms_norm(
        x: &'a [f32],
        weight: &'a [f32],
        eps: f32,
        out: &'a mut [f32],
        factors: &'a mut [f32],
    ) -> () {
        let width = weight.len();
        let rows = x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(factors);
        for ((x, out), factor) in rows {
            let f = 1.0 / (sum_of_squares(x) / length(x) + eps).sqrt();
            let f = if f > 0.0 { f } else { f32::NAN };
            *factor = f;
            for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
                *out = x * f * w;
            }
        }
    }

    /// The gradient of [`rms_norm`]; `into` gets it added.
    fn rms_norm_backward(
        gradient: &'a [f32],
        x: &'a [f32],
        weight: &'a [f32],
        factors: &'a [f32],
        into: &'a mut [f32],
    ) -> () {
        let width = weight.len();
        let rows = gradient
            .chunks_exact(width)
            .zip(x.chunks_exact(width))
            .zip(into.chunks_exact_mut(width))
            .zip(factors);
        for (((g, x), into), &f) in rows {
            let mut lanes = [0.0f32; LANES];
            let ((gs, g_tail), (xs, x_tail)) = (g.as_chunks::<LANES>(), x.as_chunks::<LANES>());
            let (ws, w_tail) = weight.as_chunks::<LANES>();
            for ((g, x), w) in gs.iter().zip(xs).zip(ws) {
                for i in 0..LANES {
                    lanes[i] = (g[i] * w[i]).mul_add(x[i], lanes[i]);
                }
            }
            for (((lane, &g), &x), &w) in lanes.iter_mut().zip(g_tail).zip(x_tail).zip(w_tail) {
                *lane = (g * w).mul_add(x, *lane);
            }
            let shared = fold(lanes) * f * f * f / length(x);
            for (((into, &g), &x), &w) in into.iter_mut().zip(g).zip(x).zip(weight) {
                *into += (g * w).mul_add(f, -(x * shared));
            }
        }
    }

    /// Rotates each head (`head` numbers) of each row (`width` numbers) by the angles of its
    /// position: `head/2` cosines and sines per row. A `sign` of −1 rotates back, which is the
    /// gradient.
    fn rotate(
        x: &'a mut [f32],
        width: usize,
        head: usize,
        angles: (&'a [f32], &'a [f32]),
        sign: f32,
    ) -> () {
        let half = head / 2;
        let angles = angles.0.chunks_exact(half).zip(angles.1.chunks_exact(half));
        for (row, (cos, sin)) in x.chunks_exact_mut(width).zip(angles) {
            for head in row.chunks_exact_mut(head) {
                let (low, high) = head.split_at_mut(half);
                for (((a, b), &c), &s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                    let (x, y, s) = (*a, *b, s * sign);
                    *a = x * c - y * s;
                    *b = y * c + x * s;
                }
            }
        }
    }

    /// `silu(gate) · up`.
    fn swiglu(gate: &'a [f32], up: &'a [f32], out: &'a mut [f32]) -> () {
        for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
            *out = g / (1.0 + exp(-g)) * u;
        }
    }

    /// The gradient of [`swiglu`]: replaces `gate` and `up` by their gradients.
    fn swiglu_backward(gradient: &'a [f32], gate: &'a mut [f32], up: &'a mut [f32]) -> () {
        for ((&d, g), u) in gradient.iter().zip(gate).zip(up) {
            let s = 1.0 / (1.0 + exp(-*g));
            let silu = *g * s;
            let slope = s * (1.0 + *g * (1.0 - s));
            let du = d * silu;
            *g = d * *u * slope;
            *u = du;
        }
    }

    /// Softmax numerators of `scale·x` over the first `valid` of a row; the rest become 0. Returns
    /// the largest input and the sum of the numerators.
    fn softmax_row(x: &'a mut [f32], valid: usize, scale: f32) -> (f32, f32) {
        let (seen, masked) = x.split_at_mut(valid);
        masked.fill(0.0);
        let top = maximum(seen);
        let sum = exponentiate(seen, scale, top);
        (top, sum)
    }

    /// Turns scores into probabilities and into the gradient of the scores: with
    /// `p = e^(scale·(x − top)) / sum`, `x ← p` and `dp ← p·(dp − mean)·scale` over the first
    /// `valid` of a row, 0 after. `known` is `(top, sum, mean)`.
    fn softmax_gradient(
        x: &'a mut [f32],
        dp: &'a mut [f32],
        valid: usize,
        scale: f32,
        known: (f32, f32, f32),
    ) -> () {
        let (top, sum, mean) = known;
        let (seen, masked) = x.split_at_mut(valid);
        masked.fill(0.0);
        let (dp, dp_masked) = dp.split_at_mut(valid);
        dp_masked.fill(0.0);
        let inverse = 1.0 / sum;
        for (x, dp) in seen.iter_mut().zip(dp) {
            *x = exp(scale * (*x - top)) * inverse;
            *dp = *x * (*dp - mean) * scale;
        }
    }

    /// The largest of a row, `Σ e^(x − largest)` and its logarithm; `x` becomes the numerators.
    fn log_sum_exp(x: &'a mut [f32]) -> (f32, f32, f32) {
        let top = maximum(x);
        let sum = exponentiate(x, 1.0, top);
        #[expect(clippy::cast_possible_truncation, reason = "rounding to single precision")]
        let log = logarithm(f64::from(sum)) as f32;
        let log = if sum.is_finite() { log } else { f32::NAN };
        (top, sum, log)
    }

    /// `a · b` per row of `width` numbers that start every `stride`.
    fn dot_rows(a: &'a [f32], b: &'a [f32], width: usize, stride: usize, out: &'a mut [f32]) -> () {
        for ((a, b), out) in a.chunks(stride).zip(b.chunks(stride)).zip(out) {
            *out = dot(&a[..width], &b[..width]);
        }
    }

    /// `into += x`.
    fn add_into(into: &'a mut [f32], x: &'a [f32]) -> () {
        for (into, &x) in into.iter_mut().zip(x) {
            *into += x;
        }
    }

    /// `x ← x · factor`.
    fn scale(x: &'a mut [f32], factor: f32) -> () {
        for x in x {
            *x *= factor;
        }
    }

    /// One AdamW step over whole vectors, see the optimizer. `moments` are the first and the
    /// second; `law` is `[β₁, 1−β₁, β₂, 1−β₂, rate, root, ε, keep, clip]`.
    fn adamw(
        numbers: &'a mut [f32],
        gradient: &'a [f32],
        moments: (&'a mut [f32], &'a mut [f32]),
        law: [f32; 9],
    ) -> () {
        let [b1, r1, b2, r2, rate, root, eps, keep, clip] = law;
        let (first, second) = moments;
        for (((x, m), v), &g) in numbers.iter_mut().zip(first).zip(second).zip(gradient) {
            let g = g * clip;
            *m = b1 * *m + r1 * g;
            *v = b2 * *v + r2 * (g * g);
            *x = *x * keep - rate * *m / (v.sqrt() * root + eps);
        }
    }
}

/// Index of the largest number, the first of equals.
pub(crate) fn highest(x: &[f32]) -> usize {
    let mut best = 0;
    for (i, &v) in x.iter().enumerate() {
        if v > x[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        #[expect(clippy::cast_precision_loss, reason = "small")]
        (0..count).map(|i| ((i * 7919 + seed * 131) % 2003) as f32 / 500.0 - 2.0).collect()
    }

    /// Checks `gradient` against central differences of `loss` at `x`.
    fn check(x: &[f32], gradient: &[f32], loss: impl Fn(&[f32]) -> f64) {
        let h = 1e-2f32;
        for i in 0..x.len() {
            let mut moved = x.to_vec();
            moved[i] = x[i] + h;
            let up = loss(&moved);
            moved[i] = x[i] - h;
            let slope = (up - loss(&moved)) / (2.0 * f64::from(h));
            let error = (slope - f64::from(gradient[i])).abs();
            assert!(error < 2e-3 * slope.abs().max(1.0), "{i}: {slope} {}", gradient[i]);
        }
    }

    fn weigh(x: &[f32], by: &[f32]) -> f64 {
        x.iter().zip(by).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    }

    #[test]
    fn norm_has_its_gradient() {
        let cpu = Cpu::detect();
        let (x, w, by) = (numbers(3 * 20, 1), numbers(20, 2), numbers(3 * 20, 3));
        let forward = |x: &[f32]| {
            let (mut out, mut f) = (vec![0.0; x.len()], vec![0.0; 3]);
            rms_norm(cpu, x, &w, 1e-6, &mut out, &mut f);
            (out, f)
        };
        let (_, factors) = forward(&x);
        let mut gradient = vec![0.0; x.len()];
        rms_norm_backward(cpu, &by, &x, &w, &factors, &mut gradient);
        check(&x, &gradient, |x| weigh(&forward(x).0, &by));
    }

    #[test]
    fn rotation_keeps_length_and_turns_back() {
        let cpu = Cpu::detect();
        let angles: Vec<f32> = numbers(2 * 4, 4);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        let x = numbers(2 * 16, 5);
        let mut y = x.clone();
        rotate(cpu, &mut y, 16, 8, (&cos, &sin), 1.0);
        assert!((weigh(&x, &x) - weigh(&y, &y)).abs() < 1e-4);
        rotate(cpu, &mut y, 16, 8, (&cos, &sin), -1.0);
        assert!(x.iter().zip(&y).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn gate_has_its_gradient() {
        let cpu = Cpu::detect();
        let (gate, up, by) = (numbers(40, 6), numbers(40, 7), numbers(40, 8));
        let forward = |gate: &[f32], up: &[f32]| {
            let mut out = vec![0.0; 40];
            swiglu(cpu, gate, up, &mut out);
            weigh(&out, &by)
        };
        let (mut dg, mut du) = (gate.clone(), up.clone());
        swiglu_backward(cpu, &by, &mut dg, &mut du);
        check(&gate, &dg, |g| forward(g, &up));
        check(&up, &du, |u| forward(&gate, u));
    }

    #[test]
    fn softmax_has_its_gradient_and_masks() {
        let cpu = Cpu::detect();
        let (x, by) = (numbers(37, 9), numbers(37, 10));
        let (valid, s) = (30, 0.3);
        let forward = |x: &[f32]| {
            let mut p = x.to_vec();
            let (top, sum) = softmax_row(cpu, &mut p, valid, s);
            p.iter_mut().for_each(|p| *p /= sum);
            (p, top, sum)
        };
        let (p, top, sum) = forward(&x);
        assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(p[valid..].iter().all(|&p| p == 0.0));
        #[expect(clippy::cast_possible_truncation, reason = "test")]
        let mean = weigh(&p, &by) as f32;
        let (mut scores, mut dp) = (x.clone(), by.clone());
        softmax_gradient(cpu, &mut scores, &mut dp, valid, s, (top, sum, mean));
        check(&x, &dp, |x| weigh(&forward(x).0, &by));
    }

    #[test]
    fn masked_tail_does_not_change_the_sum() {
        let cpu = Cpu::detect();
        let x = numbers(61, 11);
        let mut short = x[..45].to_vec();
        let mut long = x.clone();
        assert_eq!(softmax_row(cpu, &mut short, 45, 0.5), softmax_row(cpu, &mut long, 45, 0.5));
        assert_eq!(short, long[..45]);
    }
}
