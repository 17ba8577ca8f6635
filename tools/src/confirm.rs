//! Asking before destroying: the name is typed, not a letter.

use std::io::{BufRead, IsTerminal, Read, Write};

use cairn_api::Changed;

use crate::error::ToolError;
use crate::output::say;
use crate::quantity::show_size;

/// Longest answer that is read: no name is longer than a path.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Says what `preview` would do, and lets the person type `word` to go on.
///
/// Without a terminal there is nobody to ask: that is a usage error that names `--yes`.
pub(crate) fn ask(preview: &Changed, word: &str) -> Result<(), ToolError> {
    for line in lines(preview) {
        say(line);
    }
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(ToolError::usage(
            format!("not done without a confirmation: {}", preview.summary),
            "repeat the command with --yes, or with --dry-run to see what it would do",
        ));
    }
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "Type {word} to go on: ");
    let _ = stderr.flush();
    let mut answer = String::new();
    let read = std::io::stdin()
        .lock()
        .take(ANSWER_BYTES_MAX)
        .read_line(&mut answer);
    if read.is_ok() && answer.trim() == word {
        Ok(())
    } else {
        Err(ToolError::usage(
            format!("{word} wasn't typed: nothing was changed"),
            "repeat the command if you meant it",
        ))
    }
}

/// What a change does, or would, for a person.
pub(crate) fn lines(changed: &Changed) -> Vec<String> {
    let mut lines = Vec::new();
    if !changed.summary.is_empty() {
        lines.push(changed.summary.clone());
    }
    lines.extend(
        changed
            .warnings
            .iter()
            .map(|text| format!("warning: {text}")),
    );
    if let Some(left) = changed.redundancy_left {
        lines.push(match left {
            0 => "redundancy left: none; the next lost disk loses data".to_owned(),
            1 => "redundancy left: 1 more disk may be lost".to_owned(),
            more => format!("redundancy left: {more} more disks may be lost"),
        });
    }
    if let Some(volume) = &changed.volume
        && changed.needs_yes
    {
        lines.push(format!(
            "the volume {} holds {} of data",
            volume.name,
            show_size(volume.allocated_bytes)
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_is_said_before_and_after() {
        let changed = Changed {
            dry_run: true,
            summary: "would fail /d/3 of pool".to_owned(),
            warnings: vec!["no spare is left".to_owned()],
            redundancy_left: Some(0),
            ..Changed::default()
        };
        assert_eq!(
            lines(&changed),
            [
                "would fail /d/3 of pool",
                "warning: no spare is left",
                "redundancy left: none; the next lost disk loses data",
            ]
        );
    }
}
