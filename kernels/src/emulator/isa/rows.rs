//! Functions of rows out of functions of lanes. A loop over 32 lanes without a branch is what the compiler vectorises.

/// `fn(&Row) -> Row`
macro_rules! row1 {
    ($f:expr) => {{
        fn row(a: &crate::emulator::isa::Row) -> crate::emulator::isa::Row {
            let mut out = [0; 32];
            for i in 0..32 {
                out[i] = ($f)(a[i]);
            }
            out
        }
        row as fn(&crate::emulator::isa::Row) -> crate::emulator::isa::Row
    }};
}

/// `fn(&Row, &Row) -> Row`
macro_rules! row2 {
    ($f:expr) => {{
        fn row(a: &crate::emulator::isa::Row, b: &crate::emulator::isa::Row) -> crate::emulator::isa::Row {
            let mut out = [0; 32];
            for i in 0..32 {
                out[i] = ($f)(a[i], b[i]);
            }
            out
        }
        row as fn(&crate::emulator::isa::Row, &crate::emulator::isa::Row) -> crate::emulator::isa::Row
    }};
}

/// `fn(&Row, &Row, &Row) -> Row`
macro_rules! row3 {
    ($f:expr) => {{
        use crate::emulator::isa::Row;
        fn row(a: &Row, b: &Row, c: &Row) -> Row {
            let mut out = [0; 32];
            for i in 0..32 {
                out[i] = ($f)(a[i], b[i], c[i]);
            }
            out
        }
        row as fn(&Row, &Row, &Row) -> Row
    }};
}

/// The same for other mixtures of widths: `rows!((Row, Row64) -> Row64, f)`.
macro_rules! rows {
    (($A:ty) -> $O:ty, $f:expr) => {{
        fn row(a: &$A) -> $O {
            let mut out = [0; 32];
            for i in 0..32 {
                out[i] = ($f)(a[i]);
            }
            out
        }
        row as fn(&$A) -> $O
    }};
    (($A:ty, $B:ty) -> $O:ty, $f:expr) => {{
        fn row(a: &$A, b: &$B) -> $O {
            let mut out = [0; 32];
            for i in 0..32 {
                out[i] = ($f)(a[i], b[i]);
            }
            out
        }
        row as fn(&$A, &$B) -> $O
    }};
    (($A:ty, $B:ty, $C:ty) -> $O:ty, $f:expr) => {{
        fn row(a: &$A, b: &$B, c: &$C) -> $O {
            let mut out = [0; 32];
            for i in 0..32 {
                out[i] = ($f)(a[i], b[i], c[i]);
            }
            out
        }
        row as fn(&$A, &$B, &$C) -> $O
    }};
}

/// A comparison of rows: one bit a lane.
macro_rules! mask {
    ($R:ty, $f:expr) => {{
        fn mask(a: &$R, b: &$R) -> u32 {
            let mut out = 0;
            for i in 0..32 {
                out |= u32::from(($f)(a[i], b[i])) << i;
            }
            out
        }
        mask as fn(&$R, &$R) -> u32
    }};
}

pub(super) use {mask, row1, row2, row3, rows};
