//! Dense matrices in f64, row by row: products, and the factor of H⁻¹. Everything here runs on the
//! thread that calls it, so that results do not depend on the number of threads.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor as llt;
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Accum, MatMut, MatRef, Par};

/// A product that is added to a matrix: `out += factor · left · right`. Matrices are slices and the
/// number of elements from one row to the next.
pub(super) struct Multiply<'a> {
    pub out: (&'a mut [f64], usize),
    pub left: (&'a [f64], usize),
    /// Whether `left` is stored as `[inner, rows]` instead of `[rows, inner]`.
    pub transposed: bool,
    pub right: (&'a [f64], usize),
    /// The rows of the result, the length of the sums and the columns of the result.
    pub shape: (usize, usize, usize),
    pub factor: f64,
}

/// Adds a product to a matrix. Panics if a slice is too short for its shape.
pub(super) fn multiply(product: Multiply<'_>) {
    let (rows, inner, columns) = product.shape;
    if rows == 0 || inner == 0 || columns == 0 {
        return;
    }
    let last = |count: usize, stride: usize, length: usize| (count - 1) * stride + length;
    let (out, stride) = product.out;
    let out = &mut out[..last(rows, stride, columns)];
    // Not `from_row_major_slice_with_stride_mut`: in faer 0.24 it takes the stride for that of columns.
    let out = MatMut::from_column_major_slice_with_stride_mut(out, columns, rows, stride);
    let out = out.transpose_mut();
    let (left, stride) = product.left;
    let left = if product.transposed {
        let left = &left[..last(inner, stride, rows)];
        MatRef::from_row_major_slice_with_stride(left, inner, rows, stride).transpose()
    } else {
        let left = &left[..last(rows, stride, inner)];
        MatRef::from_row_major_slice_with_stride(left, rows, inner, stride)
    };
    let (right, stride) = product.right;
    let right = &right[..last(inner, stride, columns)];
    let right = MatRef::from_row_major_slice_with_stride(right, inner, columns, stride);
    matmul(out, Accum::Add, left, right, product.factor, Par::Seq);
}

/// Returns the upper triangular U with H⁻¹ = UᵀU, `[k, k]`, or `None` if H is not positive definite or
/// U is not finite. `h(i, j)` is an entry of H with i ≤ j.
///
/// H is factored from the last column backwards, H = U'U'ᵀ, and U = U'⁻¹. This is half the work of
/// factoring H, inverting it and factoring the result.
pub(super) fn factor(k: usize, h: impl Fn(usize, usize) -> f64) -> Option<Vec<f64>> {
    if k == 0 {
        return Some(Vec::new());
    }
    // With rows and columns in reverse order, U' is an ordinary lower factor. Reversing the elements of
    // a matrix reverses both.
    let mut lower = vec![0.0; k * k];
    for (row, elements) in lower.chunks_exact_mut(k).enumerate() {
        for (column, element) in elements[..=row].iter_mut().enumerate() {
            *element = h(k - 1 - row, k - 1 - column);
        }
    }
    let scratch = llt::cholesky_in_place_scratch::<f64>(k, Par::Seq, Default::default());
    let mut memory = MemBuffer::try_new(scratch).ok()?;
    llt::cholesky_in_place(
        MatMut::from_row_major_slice_mut(&mut lower, k, k),
        Default::default(),
        Par::Seq,
        MemStack::new(&mut memory),
        Default::default(),
    )
    .ok()?;
    let mut inverse = vec![0.0; k * k];
    invert_lower_triangular(
        MatMut::from_row_major_slice_mut(&mut inverse, k, k),
        MatRef::from_row_major_slice(&lower, k, k),
        Par::Seq,
    );
    inverse.reverse();
    let good = inverse.iter().all(|x| x.is_finite());
    let good = good && (0..k).all(|i| inverse[i * k + i] > 0.0);
    good.then_some(inverse)
}
