//! `cairn`, the operator's tool. Everything is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    cairn_tools::main()
}
