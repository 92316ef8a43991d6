//! Exponential, logarithm, sine and cosine of our own.
//!
//! Plain Taylor series after range reduction, with the degree chosen so that the remainder lies
//! below half a unit in the last place. They exist for two reasons: a loop around [`exp`] becomes
//! vector code, and bits do not depend on the system's math library.

/// `e^x` in single precision; relative error below 2e-7, 0 below −87.3, capped above 88.
///
/// `x = n·ln 2 + r` with `|r| ≤ 0.347`; the series to degree 7 leaves `r⁸/8! < 6e-9`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has 9 trailing zero bits, so that n·LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Written so that NaN stays: a softmax that swallows it hides an overflow.
    let clamped = if x > 88.0 { 88.0 } else { x };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let mut p = 1.0f32 / 5040.0;
    p = p.mul_add(r, 1.0 / 720.0);
    p = p.mul_add(r, 1.0 / 120.0);
    p = p.mul_add(r, 1.0 / 24.0);
    p = p.mul_add(r, 1.0 / 6.0);
    p = p.mul_add(r, 0.5);
    p = p.mul_add(r, 1.0);
    p = p.mul_add(r, 1.0);
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { p * power }
}

/// `e^x` in double precision, for tables; `|x| < 700`.
pub(crate) fn exponential(x: f64) -> f64 {
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let n = (x * std::f64::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let mut term = 1.0;
    let mut sum = 1.0;
    for i in 1..=16u32 {
        term *= r / f64::from(i);
        sum += term;
    }
    // |n| ≤ 1010, so the biased exponent is in range.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "n is a small whole number and 1023 + n is positive"
    )]
    let power = f64::from_bits(((1023 + n as i64) as u64) << 52);
    sum * power
}

/// `ln x` in double precision for a positive normal `x`.
///
/// `x = m·2^e` with `m` in `[√½, √2)`; `ln m = 2·atanh((m−1)/(m+1))`.
pub(crate) fn logarithm(x: f64) -> f64 {
    let bits = x.to_bits();
    #[expect(clippy::cast_possible_wrap, reason = "eleven bits")]
    let mut e = ((bits >> 52) & 0x7FF) as i64 - 1023;
    let mut m = f64::from_bits((bits & 0x000F_FFFF_FFFF_FFFF) | 0x3FF0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        e += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut sum = 0.0f64;
    for i in (0..=11u32).rev() {
        sum = sum.mul_add(square, 1.0 / f64::from(2 * i + 1));
    }
    #[expect(clippy::cast_precision_loss, reason = "an exponent fits exactly")]
    let exponent = e as f64;
    exponent.mul_add(std::f64::consts::LN_2, 2.0 * s * sum)
}

/// `sin x` in double precision, for tables; accurate to 1e-13 for `|x| < 10⁶`.
pub(crate) fn sine(x: f64) -> f64 {
    quarter(x, 0)
}

/// `cos x`, as [`sine`].
pub(crate) fn cosine(x: f64) -> f64 {
    quarter(x, 1)
}

/// `sin(x + turn·π/2)`.
fn quarter(x: f64, turn: i64) -> f64 {
    const HALF_PI_HIGH: f64 = std::f64::consts::FRAC_PI_2;
    const HALF_PI_LOW: f64 = 6.123_233_995_736_766e-17;
    let n = (x * std::f64::consts::FRAC_2_PI).round_ties_even();
    let r = n.mul_add(-HALF_PI_LOW, n.mul_add(-HALF_PI_HIGH, x));
    #[expect(clippy::cast_possible_truncation, reason = "a whole number below 10⁶")]
    let quadrant = (n as i64 + turn).rem_euclid(4);
    let square = r * r;
    let odd = quadrant % 2 == 1;
    let mut term = if odd { 1.0 } else { r };
    let mut sum = term;
    let first = if odd { 1u32 } else { 2 };
    for i in 0..10u32 {
        let k = first + 2 * i;
        term *= -square / (f64::from(k) * f64::from(k + 1));
        sum += term;
    }
    if quadrant >= 2 { -sum } else { sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        let mut worst = 0.0f64;
        for i in -87_000..=88_000i32 {
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - exact) / exact).abs());
        }
        assert!(worst < 2e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-100.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(1000.0).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn doubles_agree_with_the_system() {
        for i in 1..20_000i32 {
            let x = f64::from(i) * 0.37;
            assert!((logarithm(x) - x.ln()).abs() < 1e-14 * x.ln().abs().max(1.0), "ln {x}");
            assert!((sine(x) - x.sin()).abs() < 1e-12, "sin {x}");
            assert!((cosine(x) - x.cos()).abs() < 1e-12, "cos {x}");
            let y = f64::from(i) * 0.001 - 10.0;
            assert!((exponential(y) / y.exp() - 1.0).abs() < 1e-14, "exp {y}");
        }
    }
}
