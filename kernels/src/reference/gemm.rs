//! Linear layer: `out = x · wᵀ + bias`.

/// `out[r, c] = sum over k of x[r, k] * w[c, k] + bias[c]`, in `f64`, in the order of `k`.
///
/// `x: [m, cols]`, `w: [rows, cols]`, `bias: [rows]`, result `[m, rows]`.
pub fn linear(x: &[f32], m: usize, w: &[f32], rows: usize, cols: usize, bias: Option<&[f32]>) -> Vec<f64> {
    let mut out = Vec::with_capacity(m * rows);
    for r in 0..m {
        for c in 0..rows {
            let (x, w) = (&x[r * cols..(r + 1) * cols], &w[c * cols..(c + 1) * cols]);
            let dot: f64 = x.iter().zip(w).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            out.push(dot + bias.map_or(0.0, |b| f64::from(b[c])));
        }
    }
    out
}
