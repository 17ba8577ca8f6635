//! The binary from outside: what it promises without root, on files for disks.

mod api;
mod arrays;
mod common;
mod start;
