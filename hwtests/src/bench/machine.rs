//! Where and of what a run is: its figures mean nothing without.

use serde::Serialize;

use crate::program;

/// Where a run was.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's name, and how many of them.
    pub cpu: String,
    /// The kernel.
    pub kernel: String,
    /// When.
    pub date: String,
    /// Of which commit; `+` for changes that aren't in it.
    pub commit: String,
    /// Processes that wanted to run, before it began: over the last minute.
    pub load_before: String,
}

fn line_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = program::command(program, arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

fn commit() -> String {
    let tree = program::tree().to_string_lossy().into_owned();
    let Some(commit) = line_of("git", &["-C", &tree, "rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".into();
    };
    match line_of("git", &["-C", &tree, "status", "--porcelain"]) {
        Some(_) => commit + "+",
        None => commit,
    }
}

/// A kernel's version without what its builder appended.
fn version(release: &str) -> String {
    let (version, _) = release.split_once('-').unwrap_or((release, ""));
    version.to_owned()
}

impl Machine {
    /// This one, now.
    pub fn now() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown processor", |(_, name)| name);
        let threads = std::thread::available_parallelism().map_or(0, usize::from);
        let text = |path| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.split_whitespace().next().unwrap_or("?").to_owned()
        };
        Self {
            cpu: format!("{model}, {threads} threads"),
            kernel: version(&text("/proc/sys/kernel/osrelease")),
            date: line_of("date", &["-u", "+%F %H:%MZ"]).unwrap_or_else(|| "unknown".into()),
            commit: commit(),
            load_before: text("/proc/loadavg"),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}; Linux {}; {}; commit {}; load before {}",
            self.cpu, self.kernel, self.date, self.commit, self.load_before
        )
    }
}
