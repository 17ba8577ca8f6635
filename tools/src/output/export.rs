//! `KEY=VALUE` for shells: `eval "$(cairn -o export array show pool)"`.
//!
//! One thing gives a line per key. A list gives a line per row with all pairs on it, so that
//! `while read -r line; do eval "$line"; …; done` works.

use super::{Cell, View};

/// The facts of `view`, or its rows where it is a list.
pub(super) fn render(view: &View) -> String {
    if view.facts.is_empty() {
        return pairs(&view.sheet.columns, &view.sheet.rows);
    }
    view.facts
        .iter()
        .map(|fact| pair(fact.key, &fact.cell) + "\n")
        .collect()
}

/// A line of pairs per row.
pub(crate) fn pairs(columns: &[&'static str], rows: &[Vec<Cell>]) -> String {
    rows.iter()
        .map(|row| {
            let line: Vec<String> = columns
                .iter()
                .zip(row)
                .map(|(key, cell)| pair(key, cell))
                .collect();
            line.join(" ") + "\n"
        })
        .collect()
}

fn pair(key: &str, cell: &Cell) -> String {
    format!("{}={}", key.to_ascii_uppercase(), quote(&cell.raw))
}

/// `value` so that a POSIX shell reads it as one word and expands nothing in it.
fn quote(value: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_./:+@%".contains(c);
    if !value.is_empty() && value.chars().all(harmless) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::sample;
    use crate::output::{Sheet, fact};

    #[test]
    fn a_list_is_a_line_of_pairs_per_row() {
        assert_eq!(
            render(&sample()),
            "PATH='/d/a b' SIZE_BYTES=1610612736 NOTE='say \"hi\", twice'\n\
             PATH='/d/it'\\''s' SIZE_BYTES=0 NOTE=''\n"
        );
    }

    #[test]
    fn one_thing_is_a_line_per_key_and_nothing_expands() {
        let view = View {
            facts: vec![
                fact("name", Cell::text("pg")),
                fact("reason", Cell::text("$(rm x) `y`")),
            ],
            sheet: Sheet::default(),
            more: Vec::new(),
            nothing: "",
        };
        assert_eq!(render(&view), "NAME=pg\nREASON='$(rm x) `y`'\n");
    }
}
