//! The code word of some columns of a row, and what is lost of it.
//!
//! Every lost chunk is a sum of known ones with factors of their own, so that it is had in one pass:
//! with x and y lost, Px = Dx ^ Dy and Qx = 2^x Dx ^ 2^y Dy give Dx = (Qx ^ 2^y Px) / (2^x ^ 2^y).

use cairn_blockdev::Buf;

use super::field::{coefficient, inverse, mul};
use super::kernel::Kernel;

/// The code word of some columns of a row: data 0.., P and Q, each known or not.
pub struct Word {
    /// Data chunks in index order; `None` where unknown.
    pub data: Vec<Option<Buf>>,
    /// XOR parity, where the level has it and it is known.
    pub p: Option<Buf>,
    /// Q parity, where the level has it and it is known.
    pub q: Option<Buf>,
}

/// More is unknown than the known parities can give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsolvable;

impl Word {
    /// Fills in every unknown data chunk. Parities stay as they are.
    ///
    /// `fresh` gives a buffer of the word's length with any contents.
    pub fn solve_data(&mut self, fresh: impl Fn() -> Buf) -> Result<(), Unsolvable> {
        let unknown: Vec<usize> = self
            .data
            .iter()
            .enumerate()
            .filter(|(_, d)| d.is_none())
            .map(|(i, _)| i)
            .collect();
        let known = || {
            let data = self.data.iter().enumerate();
            data.filter_map(|(index, data)| Some((index, &**data.as_ref()?)))
        };
        let kernel = Kernel::best();
        match (unknown.as_slice(), &self.p, &self.q) {
            ([], _, _) => Ok(()),
            (&[x], Some(p), _) => {
                let mut out = fresh();
                let sources: Vec<&[u8]> = known().map(|(_, data)| data).chain([&**p]).collect();
                kernel.p(&sources, &mut out);
                self.put(x, out)
            }
            (&[x], None, Some(q)) => {
                let mut out = fresh();
                let scale = inverse(coefficient(x));
                let (sources, factors): (Vec<&[u8]>, Vec<u8>) = known()
                    .map(|(i, data)| (data, mul(scale, coefficient(i))))
                    .chain([(&**q, scale)])
                    .unzip();
                kernel.dot(&sources, &factors, &mut out);
                self.put(x, out)
            }
            (&[x, y], Some(p), Some(q)) => {
                let (mut dx, mut dy) = (fresh(), fresh());
                let (of_x, of_y) = (coefficient(x), coefficient(y));
                let scale = inverse(of_x ^ of_y);
                let sources: Vec<&[u8]> =
                    known().map(|(_, data)| data).chain([&**p, &**q]).collect();
                let factors: Vec<u8> = known()
                    .map(|(i, _)| mul(scale, coefficient(i) ^ of_y))
                    .chain([mul(scale, of_y), scale])
                    .collect();
                // Dy = Px ^ Dx: of everything but Q, which is the last, one more.
                kernel.pair(&sources, &factors, sources.len() - 1, &mut dx, &mut dy);
                self.put(x, dx)?;
                self.put(y, dy)
            }
            _ => Err(Unsolvable),
        }
    }

    fn put(&mut self, index: usize, value: Buf) -> Result<(), Unsolvable> {
        *self.data.get_mut(index).ok_or(Unsolvable)? = Some(value);
        Ok(())
    }
}
