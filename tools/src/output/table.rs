//! Tables for people: no lines, two spaces between columns, so that `awk` and eyes both read them.

use comfy_table::{Attribute, CellAlignment, Color, ContentArrangement, Table, presets};

use super::{Cell, Sheet, Tone, View};

/// Draws views and coloured words, or plain ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Painter {
    colour: bool,
}

impl Painter {
    /// `colour`: whether escape sequences may be used.
    pub(crate) const fn new(colour: bool) -> Self {
        Self { colour }
    }

    /// `text` in the colour of `tone`.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "1;31",
            Tone::Dim => "2",
        };
        self.escape(code, text)
    }

    /// `text` as a heading.
    pub(crate) fn heading(self, text: &str) -> String {
        self.escape("1", text)
    }

    fn escape(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    /// Facts as `key  value` lines, then the sheet.
    pub(crate) fn view(self, view: &View) -> String {
        let mut text = String::new();
        let width = view.facts.iter().map(|fact| fact.key.len()).max();
        for fact in &view.facts {
            let label = format!("{:width$}", label(fact.key), width = width.unwrap_or(0));
            text.push_str(&self.paint(Tone::Dim, &label));
            text.push_str("  ");
            text.push_str(&self.paint(fact.cell.tone, &fact.cell.shown));
            text.push('\n');
        }
        if view.sheet.rows.is_empty() {
            if view.facts.is_empty() {
                text.push_str(&self.paint(Tone::Dim, view.nothing));
                text.push('\n');
            }
            return text;
        }
        if !view.facts.is_empty() {
            text.push('\n');
        }
        text.push_str(&self.sheet(&view.sheet, 0));
        for (heading, sheet) in &view.more {
            text.push('\n');
            text.push_str(&self.heading(heading));
            text.push('\n');
            text.push_str(&self.sheet(sheet, 0));
        }
        text
    }

    /// The sheet alone, each line indented by `indent` spaces.
    pub(crate) fn sheet(self, sheet: &Sheet, indent: usize) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        // Never wrapped: a path broken in two can't be copied, a terminal wraps well enough.
        table.set_content_arrangement(ContentArrangement::Disabled);
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(sheet.columns.iter().enumerate().map(|(index, name)| {
            let name = if sheet.verbatim {
                (*name).to_owned()
            } else {
                header(name).to_uppercase()
            };
            let right = sheet
                .rows
                .iter()
                .filter_map(|row| row.get(index))
                .any(|cell| cell.right);
            let cell = comfy_table::Cell::new(name).set_alignment(alignment(right));
            if self.colour {
                cell.add_attribute(Attribute::Bold)
            } else {
                cell
            }
        }));
        for row in &sheet.rows {
            table.add_row(row.iter().map(|cell| self.cell(cell)));
        }
        let last = sheet.columns.len().saturating_sub(1);
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, if index == last { 0 } else { 2 }));
        }
        let pad = " ".repeat(indent);
        let mut text = String::new();
        for line in table.trim_fmt().lines() {
            text.extend([&pad, line, "\n"]);
        }
        text
    }

    fn cell(self, cell: &Cell) -> comfy_table::Cell {
        let drawn = comfy_table::Cell::new(&cell.shown).set_alignment(alignment(cell.right));
        if !self.colour {
            return drawn;
        }
        match cell.tone {
            Tone::Plain => drawn,
            Tone::Good => drawn.fg(Color::Green),
            Tone::Warn => drawn.fg(Color::Yellow),
            Tone::Bad => drawn.fg(Color::Red).add_attribute(Attribute::Bold),
            Tone::Dim => drawn.add_attribute(Attribute::Dim),
        }
    }
}

fn alignment(right: bool) -> CellAlignment {
    if right {
        CellAlignment::Right
    } else {
        CellAlignment::Left
    }
}

/// A column's header for people: short, because the column is often narrow.
fn header(key: &str) -> String {
    match key {
        "redundancy_left" => "may lose".to_owned(),
        "sync_action" => "sync".to_owned(),
        _ => label(key).replace(" errors", " err"),
    }
}

/// A fact's name for people: without its unit, which the cell shows, and with spaces.
fn label(key: &str) -> String {
    key.strip_suffix("_bytes")
        .or_else(|| key.strip_suffix("_seconds"))
        .or_else(|| key.strip_suffix("_kib"))
        .unwrap_or(key)
        .replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fact;
    use crate::output::tests::sample;

    #[test]
    fn without_colour_a_table_is_plain_text_in_columns() {
        assert_eq!(
            Painter::new(false).view(&sample()),
            "PATH        SIZE  NOTE\n\
             /d/a b   1.5 GiB  say \"hi\", twice\n\
             /d/it's      0 B  -\n"
        );
    }

    #[test]
    fn facts_stand_above_the_parts() {
        let mut view = sample();
        view.facts = vec![
            fact("name", Cell::text("pool")),
            fact("chunk_bytes", Cell::bytes(65536)),
        ];
        let text = Painter::new(false).view(&view);
        assert!(
            text.starts_with("name         pool\nchunk        64 KiB\n\nPATH "),
            "{text}"
        );
    }

    #[test]
    fn an_empty_list_says_so_to_a_person() {
        let mut view = sample();
        view.sheet.rows.clear();
        assert_eq!(Painter::new(false).view(&view), "nothing\n");
    }

    #[test]
    fn colour_is_escape_sequences_and_only_when_allowed() {
        assert_eq!(
            Painter::new(true).paint(Tone::Bad, "x"),
            "\u{1b}[1;31mx\u{1b}[0m"
        );
        assert_eq!(Painter::new(false).paint(Tone::Bad, "x"), "x");
    }
}
