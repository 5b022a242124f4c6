// Cooperative matrices of 8 × 8, all f32.
// Requires: nothing.
// Implements: matrix.
// Features: matrix8.
// Provides: SIZE, Element, MatrixA, MatrixB, MatrixC.
// Enables: wgpu_cooperative_matrix.

const SIZE = 8u;

alias Element = f32;
alias MatrixA = coop_mat8x8<f32, A>;
alias MatrixB = coop_mat8x8<f32, B>;
alias MatrixC = coop_mat8x8<f32, C>;
