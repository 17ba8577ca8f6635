//! A disk without a light of its own is found by its activity light: it is read, and left alone, in turns.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// How long it is read, and how long it is left alone.
const TURN: Duration = Duration::from_millis(700);
/// Bytes of a read: a piece that even a disk that spins gives dozens of in a turn.
const PIECE_BYTES: usize = 128 << 10;
/// What reads past the page cache have to be aligned to.
const ALIGNMENT: usize = 4096;
/// Pieces from one read to the next: far enough apart that no cache of the disk answers.
const STRIDE_PIECES: u64 = 4099;

/// A disk that blinks.
#[derive(Debug)]
pub(super) struct Blinking {
    file: File,
    pieces: u64,
    next: u64,
    buffer: Vec<u8>,
}

impl Blinking {
    /// One that is `bytes` long, opened for reads past the page cache.
    pub(super) fn new(file: File, bytes: u64) -> Self {
        let piece = u64::try_from(PIECE_BYTES).unwrap_or(u64::MAX);
        Self {
            file,
            pieces: bytes / piece,
            next: 0,
            buffer: vec![0; PIECE_BYTES + ALIGNMENT],
        }
    }

    /// One turn of each. Bytes read.
    pub(super) fn turn(&mut self) -> io::Result<u64> {
        let until = Instant::now() + TURN;
        let mut bytes = 0;
        while Instant::now() < until {
            bytes += self.piece()?;
        }
        std::thread::sleep(TURN);
        Ok(bytes)
    }

    fn piece(&mut self) -> io::Result<u64> {
        let piece = u64::try_from(PIECE_BYTES).unwrap_or(u64::MAX);
        let from = self.buffer.as_ptr().align_offset(ALIGNMENT);
        let part = self
            .buffer
            .get_mut(from..)
            .and_then(|rest| rest.get_mut(..PIECE_BYTES))
            .ok_or(ErrorKind::InvalidInput)?;
        self.file.read_exact_at(part, self.next * piece)?;
        self.next = (self.next + STRIDE_PIECES)
            .checked_rem(self.pieces)
            .unwrap_or(0);
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_gives_nothing_is_an_error() {
        let path = std::env::temp_dir().join(format!("cairn-blink-{}", std::process::id()));
        std::fs::write(&path, vec![1; PIECE_BYTES * 3]).unwrap();
        let mut blinking = Blinking::new(File::open(&path).unwrap(), 3 * PIECE_BYTES as u64);
        for _ in 0..5 {
            assert_eq!(blinking.piece().unwrap(), PIECE_BYTES as u64);
        }
        std::fs::write(&path, "short").unwrap();
        assert_eq!(
            blinking.piece().unwrap_err().kind(),
            ErrorKind::UnexpectedEof
        );
        std::fs::remove_file(&path).unwrap();
    }
}
