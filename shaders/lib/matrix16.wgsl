// Cooperative matrices of 16 × 16 with f16 products and f32 sums.
// Requires: nothing.
// Implements: matrix.
// Features: f16, matrix16.
// Provides: SIZE, Element, MatrixA, MatrixB, MatrixC.
// Enables: f16, wgpu_cooperative_matrix.

const SIZE = 16u;

alias Element = f16;
alias MatrixA = coop_mat16x16<f16, A>;
alias MatrixB = coop_mat16x16<f16, B>;
alias MatrixC = coop_mat16x16<f32, C>;
