//! `bench kernels`: the kernels' own bench (`cargo bench -p cairn-raid`), its table kept as the others'.
//!
//! Does not know: what is in the table. That bench compares results, measures and judges by itself.

use std::process::{Command, Stdio};

use clap::Args;
use serde::Serialize;

use super::machine::Machine;
use crate::program;

/// What of it is run.
#[derive(Debug, Clone, Args)]
pub struct KernelArgs {
    /// Only kernels with this in their name.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Results are compared, and nothing is measured.
    #[arg(long)]
    pub smoke: bool,
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct KernelReport {
    /// Where.
    pub machine: Machine,
    /// The table, or what is said instead.
    pub table: String,
}

/// How the last part of its output begins: whose ISA-L it was, that there was none, or that nothing was
/// measured.
const BEGINNINGS: [&str; 3] = ["\nISA-L, ", "\n*** ISA-L IS MISSING", "\nAll that ran "];

/// The part of the output after criterion's lines.
fn table(output: &str) -> Option<&str> {
    let begins = BEGINNINGS.iter().filter_map(|begin| output.rfind(begin));
    output.get(begins.max()?..).map(str::trim)
}

/// Runs it, and gives the table.
pub fn run(args: KernelArgs) -> Result<KernelReport, String> {
    let machine = Machine::now();
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(program::tree())
        .args([
            "bench",
            "--locked",
            "-p",
            "cairn-raid",
            "--bench",
            "kernels",
            "--",
        ])
        .args(args.smoke.then_some("--test"))
        .args(args.only)
        .stderr(Stdio::inherit());
    let output = command
        .output()
        .map_err(|error| format!("cargo can't be run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("cargo bench ended with {}:\n{text}", output.status));
    }
    let table = table(&text).ok_or_else(|| format!("there is no table in:\n{text}"))?;
    Ok(KernelReport {
        machine,
        table: table.to_owned(),
    })
}

impl std::fmt::Display for KernelReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n{}", self.machine, self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_comes_last() {
        let with = "peer: ISA-L, 2\nTesting\n\nISA-L, 2; one core\n\n| a |\n";
        assert_eq!(table(with), Some("ISA-L, 2; one core\n\n| a |"));
        let without =
            "\n*** ISA-L IS MISSING: x\nP time\n\n*** ISA-L IS MISSING: x\n; one core\n| a |\n";
        assert_eq!(
            table(without),
            Some("*** ISA-L IS MISSING: x\n; one core\n| a |")
        );
        assert_eq!(
            table("\n\nAll that ran give the same results.\n").map(str::len),
            Some(35)
        );
        assert_eq!(table("nothing"), None);
    }
}
