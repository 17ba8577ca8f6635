//! The last figures of each bench in hwtests/README.md, between two marks that name the bench.
//!
//! ```text
//!   <!-- bench array -->
//!   …
//!   <!-- end of bench array -->
//! ```
//!
//! Invariant: nothing outside of the marks changes.

use crate::program;

/// Where figures go that have no marks yet.
const HEADING: &str = "## Measured";

/// The text with this bench's figures in the place of those before.
pub fn replaced(text: &str, bench: &str, figures: &str) -> String {
    let (begin, end) = (
        format!("<!-- bench {bench} -->"),
        format!("<!-- end of bench {bench} -->"),
    );
    let section = format!("{begin}\n{}\n{end}", figures.trim_end());
    if let Some((before, rest)) = text.split_once(&begin)
        && let Some((_, after)) = rest.split_once(&end)
    {
        return format!("{before}{section}{after}");
    }
    let text = text.trim_end();
    if text.contains(HEADING) {
        format!("{text}\n\n{section}\n")
    } else {
        format!("{text}\n\n{HEADING}\n\n{section}\n")
    }
}

/// Writes a bench's figures into hwtests/README.md.
pub fn write(bench: &str, figures: &str) -> Result<(), String> {
    let path = program::tree().join("hwtests/README.md");
    let shown = |error: std::io::Error| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(&path).map_err(shown)?;
    let heading = format!("`bench {bench}`: {figures}");
    std::fs::write(&path, replaced(&text, bench, &heading)).map_err(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_replace_those_of_the_same_bench_and_nothing_else() {
        let once = replaced("# Title\n\ntext\n", "array", "first");
        let both = replaced(&once, "scrub", "other");
        let again = replaced(&both, "array", "second");
        assert_eq!(
            again,
            "# Title\n\ntext\n\n## Measured\n\n<!-- bench array -->\nsecond\n<!-- end of bench array -->\n\n\
             <!-- bench scrub -->\nother\n<!-- end of bench scrub -->\n"
        );
        assert_eq!(replaced(&again, "array", "second"), again);
    }
}
