//! The right-hand side of a product, laid out the way the kernel reads it.

/// Alignment of panels, in numbers: one cache line.
const LINE: usize = 16;

/// A `k × n` matrix in panels of 16 or 32 columns.
///
/// Panel after panel, and inside a panel row after row, so that the kernel reads memory in order.
/// Columns past `n` in the last panel are zero. A prefix of rows, or of columns, is usable without
/// repacking, which is what a growing key-value cache needs.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    k: usize,
    n: usize,
    width: usize,
    start: usize,
    data: Vec<f32>,
}

impl Packed {
    /// All zeros.
    pub(crate) fn zeros(k: usize, n: usize) -> Self {
        let mut packed = Self::default();
        packed.shape(k, n);
        packed
    }

    /// The transpose of `w`, which has `n` rows of `k` numbers: for `x · wᵀ`.
    pub(crate) fn of_transposed(w: &[f32], n: usize, k: usize) -> Self {
        let mut packed = Self::default();
        packed.fill_transposed(w, n, k, k);
        packed
    }

    /// `b` itself, `k` rows of `n` numbers: for `x · b`.
    pub(crate) fn of(b: &[f32], k: usize, n: usize) -> Self {
        let mut packed = Self::default();
        packed.fill(b, k, n, n);
        packed
    }

    /// Becomes the transpose of the `n` rows of `k` numbers that start every `stride` in `w`.
    pub(crate) fn fill_transposed(&mut self, w: &[f32], n: usize, k: usize, stride: usize) {
        self.shape(k, n);
        let width = self.width;
        for panel in 0..n.div_ceil(width) {
            let columns = width.min(n - panel * width);
            let out = self.panel_mut(panel);
            for c in 0..columns {
                let row = &w[(panel * width + c) * stride..][..k];
                for (slot, &x) in out[c..].iter_mut().step_by(width).zip(row) {
                    *slot = x;
                }
            }
        }
    }

    /// Becomes the `k` rows of `n` numbers that start every `stride` in `b`.
    pub(crate) fn fill(&mut self, b: &[f32], k: usize, n: usize, stride: usize) {
        self.shape(k, n);
        let width = self.width;
        for panel in 0..n.div_ceil(width) {
            let columns = width.min(n - panel * width);
            let out = self.panel_mut(panel);
            for (row, slot) in out.chunks_exact_mut(width).enumerate() {
                let from = &b[row * stride + panel * width..][..columns];
                slot[..columns].copy_from_slice(from);
            }
        }
    }

    /// The same numbers as an `n × k` matrix.
    pub(crate) fn transposed(&self) -> Self {
        let mut out = Self::zeros(self.n, self.k);
        for panel in 0..self.n.div_ceil(self.width) {
            let columns = self.width.min(self.n - panel * self.width);
            for (row, values) in self.panel(panel).chunks_exact(self.width).enumerate() {
                for (c, &x) in values[..columns].iter().enumerate() {
                    out.set(panel * self.width + c, row, x);
                }
            }
        }
        out
    }

    /// Writes one row.
    pub(crate) fn set_row(&mut self, row: usize, values: &[f32]) {
        let width = self.width;
        for (panel, part) in values.chunks(width).enumerate() {
            let at = self.start + (panel * self.k + row) * width;
            self.data[at..at + part.len()].copy_from_slice(part);
        }
    }

    /// Writes one column.
    pub(crate) fn set_column(&mut self, column: usize, values: &[f32]) {
        let width = self.width;
        let out = &mut self.panel_mut(column / width)[column % width..];
        for (slot, &x) in out.iter_mut().step_by(width).zip(values) {
            *slot = x;
        }
    }

    fn set(&mut self, row: usize, column: usize, x: f32) {
        let width = self.width;
        let at = self.start + ((column / width) * self.k + row) * width + column % width;
        self.data[at] = x;
    }

    /// Rows.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// Columns.
    pub(crate) fn n(&self) -> usize {
        self.n
    }

    /// Columns per panel.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// One panel: `k` rows of `width` numbers.
    #[inline(always)]
    pub(crate) fn panel(&self, panel: usize) -> &[f32] {
        let size = self.k * self.width;
        &self.data[self.start + panel * size..][..size]
    }

    fn panel_mut(&mut self, panel: usize) -> &mut [f32] {
        let size = self.k * self.width;
        &mut self.data[self.start + panel * size..][..size]
    }

    /// Takes this shape, all zeros where columns are padded, reusing memory.
    fn shape(&mut self, k: usize, n: usize) {
        let width = if n <= 16 { 16 } else { 32 };
        let size = n.div_ceil(width) * width * k;
        let same = self.k == k && self.n == n;
        (self.k, self.n, self.width) = (k, n, width);
        if self.data.len() < size + LINE {
            self.data = vec![0.0; size + LINE];
            self.start = self.data.as_ptr().align_offset(64).min(LINE);
        } else if !same && !n.is_multiple_of(width) {
            self.data[self.start..self.start + size].fill(0.0);
        }
    }
}
