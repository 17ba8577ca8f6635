//! The binary from outside: what it promises without root, on files for disks.

#[cfg(test)]
mod api;
#[cfg(test)]
mod arrays;
#[cfg(test)]
mod common;
#[cfg(test)]
mod lost;
#[cfg(test)]
mod pool;
#[cfg(test)]
mod scrubs;
#[cfg(test)]
mod start;
