//! Disks and the signatures on them, on real files.

#[cfg(test)]
mod files;
#[cfg(test)]
mod signatures;
