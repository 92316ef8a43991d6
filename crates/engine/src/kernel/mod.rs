//! Arithmetic on rows of `f32`.
//!
//! **What for.** Everything the model computes, written so that the bits of a result depend on the
//! numbers alone. Each output element is one chain of fused multiply-adds in a fixed order, and
//! each sum over a row goes through sixteen fixed lanes; the instruction set decides only how many
//! elements are worked on at once. So AVX2, AVX-512 and NEON agree bit for bit, one row agrees
//! with the same row among a hundred, and no function of the system's math library is called.
//!
//! **What it owns.** Nothing: [`Cpu`] is a copyable token that says which instructions exist.
//!
//! **How it fails.** It does not. Lengths are contracts between functions of this crate; a broken
//! one is a panic that names the slice.
//!
//! **How it is tested.** Against naive loops in `f64`, and bit for bit across instruction sets and
//! row counts.

mod cpu;
mod elementary;
mod matmul;
mod packed;
mod rows;

pub(crate) use cpu::Cpu;
pub(crate) use elementary::{cosine, exponential, logarithm, sine};
pub(crate) use matmul::{Into, matmul, matmul_transposed};
pub(crate) use packed::Packed;
pub(crate) use rows::{
    adamw, add_into, dot_rows, highest, log_sum_exp, rms_norm, rms_norm_backward, rotate, scale,
    softmax_gradient, softmax_row, swiglu, swiglu_backward,
};
