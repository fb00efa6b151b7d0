//! A device's share of a tensor that several devices cut among themselves.

use super::Tensor;
use crate::{Error, Result};
use oc_kernels::WeightFormat;
use std::borrow::Cow;

/// One of `count` equal parts along `axis`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// 0: rows of a matrix, or numbers of a vector; 1: columns.
    pub axis: usize,
    /// Which part, from 0.
    pub index: usize,
    /// Parts in all.
    pub count: usize,
}

impl Share {
    /// Refuses to cut a block of the tensor `name` of this format and shape.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub(crate) fn check(self, name: &str, format: WeightFormat, shape: &[usize]) -> Result<()> {
        let (block, count) = (format.block_len(), self.count);
        if self.axis == 0 || (shape[1] / count).is_multiple_of(block) {
            return Ok(());
        }
        let (format, cols) = (format.name(), shape[1]);
        Err(Error::Unsupported {
            what: format!("`{name}` in {format}, whose {cols} columns are not {count} times whole blocks of {block},"),
            hint: "cut the model over fewer devices, or use weights that are not quantised".into(),
        })
    }
}

impl Tensor<'_> {
    /// This share of a tensor whose size it divides, in whole blocks. Only columns are copied.
    pub(crate) fn share(&self, Share { axis, index, count }: Share) -> Tensor<'_> {
        let mut shape = self.shape.clone();
        shape[axis] /= count;
        let data = if axis == 0 {
            let len = self.data.len() / count;
            Cow::Borrowed(&self.data[index * len..][..len])
        } else {
            // Rows are long, so that one after the other is copied as fast as memory allows.
            let row_bytes = self.data.len() / self.shape[0].max(1);
            let len = row_bytes / count;
            let rows = self.data.chunks_exact(row_bytes.max(1));
            Cow::Owned(rows.map(|row| &row[index * len..][..len]).collect::<Vec<_>>().concat())
        };
        Tensor { name: self.name.clone(), shape, format: self.format, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], format: WeightFormat, data: &[u8]) -> Tensor<'static> {
        Tensor { name: "w".into(), shape: shape.to_vec(), format, data: Cow::Owned(data.to_vec()) }
    }

    #[test]
    fn shares_are_rows_or_columns_in_their_order() {
        // [2, 4] in 16 bits: each number is its two bytes.
        let bytes: Vec<u8> = (0..8).flat_map(|i| [i, 100 + i]).collect();
        let whole = tensor(&[2, 4], WeightFormat::Bf16, &bytes);
        let rows = whole.share(Share { axis: 0, index: 1, count: 2 });
        assert_eq!((&rows.shape[..], &*rows.data), (&[1, 4][..], &bytes[8..]));
        let cols = whole.share(Share { axis: 1, index: 1, count: 2 });
        assert_eq!((&cols.shape[..], &*cols.data), (&[2, 2][..], &[2, 102, 3, 103, 6, 106, 7, 107][..]));
    }

    #[test]
    fn blocks_are_not_cut() {
        let whole = tensor(&[1, 96], WeightFormat::Q8_0, &[0; 3 * 34]);
        let third = whole.share(Share { axis: 1, index: 2, count: 3 });
        assert_eq!((third.shape[1], third.data.len()), (32, 34));
        let check = |axis, count| Share { axis, index: 0, count }.check("w", WeightFormat::Q8_0, &[4, 96]);
        assert!(check(1, 3).is_ok() && check(0, 4).is_ok());
        let refused = check(1, 2).unwrap_err().to_string();
        assert!(refused.contains("`w` in Q8_0, whose 96 columns are not 2 times whole blocks of 32"), "{refused}");
    }
}
