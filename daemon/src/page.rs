//! The statistics page as a file. What is in it: [`cairn_api::page`].
//!
//! It is written by calls, not through a mapping: where somebody cuts the file short, a mapping would end the daemon.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use cairn_api::Work;
use cairn_api::page::encode;

/// The file, removed when this is dropped.
pub(crate) struct Page {
    path: PathBuf,
    file: File,
    generation: u64,
}

impl Page {
    /// Makes it anew. What an earlier daemon left is replaced: who has it open goes on seeing that it is old.
    pub(crate) fn create(path: PathBuf) -> io::Result<Self> {
        match std::fs::symlink_metadata(&path) {
            Ok(found) if !found.is_file() => {
                return Err(io::Error::other("something that is no plain file is there"));
            }
            Ok(_) => std::fs::remove_file(&path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut options = OpenOptions::new();
        // Names of volumes and disks are for whom the socket is for.
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Self {
            path,
            file,
            generation: 0,
        })
    }

    /// Writes what was done so far.
    pub(crate) fn write(&mut self, work: &Work) -> io::Result<()> {
        self.generation += 1;
        let (at, slot) = encode(self.generation, work);
        self.file.write_all_at(&slot, at)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(page = %self.path.display(), %error, "not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_api::page::decode;

    #[test]
    fn it_is_made_anew_written_in_turns_and_removed() {
        let dir = crate::testing::TempDir::new();
        let path = dir.path().join("cairnd.sock.stats");
        std::fs::write(&path, b"left by an earlier one").unwrap();
        let mut page = Page::create(path.clone()).unwrap();
        for pid in 1..=3 {
            let work = Work {
                pid,
                ..Work::default()
            };
            page.write(&work).unwrap();
            let (generation, read) = decode(&std::fs::read(&path).unwrap()).unwrap();
            assert_eq!((generation, read), (u64::from(pid), work));
        }
        drop(page);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_plain_file_is_left_alone() {
        let dir = crate::testing::TempDir::new();
        let path = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(Page::create(path.clone()).is_err());
        assert!(path.is_symlink());
    }
}
