//! What the tool prints, as values, and the four ways of writing it down.
//!
//! A [`View`] is built from an API value once; table, CSV and export are renderings of it. JSON is
//! the API value itself.
//!
//! Invariants
//! - Colour only where a person looks: a terminal, and `NO_COLOR` unset or empty.
//! - Programs get the raw value of a cell (bytes as an integer), people the shown one.

mod csv;
mod export;
mod table;

use std::io::{IsTerminal, Write};

use cairn_api::Reply;
use serde::Serialize;

use crate::cli::Format;
use crate::error::ToolError;
use crate::quantity::{show_seconds, show_size};

pub(crate) use table::Painter;

/// How something fares, for colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing to say about it.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Somebody should look.
    Warn,
    /// Broken.
    Bad,
    /// Of little interest.
    Dim,
}

/// One value: as a person reads it and as a program does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) shown: String,
    pub(crate) raw: String,
    pub(crate) tone: Tone,
    pub(crate) right: bool,
}

impl Cell {
    /// A word or a sentence.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            shown: text.clone(),
            raw: text,
            ..Self::default()
        }
    }

    /// Something that may be absent: a dash for people, nothing for programs.
    pub(crate) fn maybe(text: Option<impl Into<String>>) -> Self {
        match text {
            Some(text) => Self::text(text),
            None => Self {
                shown: "-".to_owned(),
                tone: Tone::Dim,
                ..Self::default()
            },
        }
    }

    /// A number.
    pub(crate) fn count(value: impl ToString) -> Self {
        Self {
            right: true,
            ..Self::text(value.to_string())
        }
    }

    /// A number that should be zero.
    pub(crate) fn errors(value: u64) -> Self {
        Self::count(value).toned(if value == 0 { Tone::Plain } else { Tone::Bad })
    }

    /// Bytes: with a unit for people, an integer for programs.
    pub(crate) fn bytes(bytes: u64) -> Self {
        Self {
            shown: show_size(bytes),
            raw: bytes.to_string(),
            right: true,
            ..Self::default()
        }
    }

    /// Seconds: in words for people, an integer for programs.
    pub(crate) fn seconds(seconds: u64) -> Self {
        Self {
            shown: show_seconds(seconds),
            raw: seconds.to_string(),
            right: true,
            ..Self::default()
        }
    }

    /// The same in another tone.
    pub(crate) fn toned(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }

    /// The same for programs, other words for people.
    pub(crate) fn shown_as(mut self, shown: impl Into<String>) -> Self {
        self.shown = shown.into();
        self
    }
}

/// One fact about a thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fact {
    pub(crate) key: &'static str,
    pub(crate) cell: Cell,
}

/// A named fact, for building a [`View`].
pub(crate) fn fact(key: &'static str, cell: Cell) -> Fact {
    Fact { key, cell }
}

/// Rows under columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sheet {
    /// Column names in snake_case with their unit: CSV's header as they stand.
    pub(crate) columns: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<Cell>>,
    /// People see the column names as they stand, too.
    pub(crate) verbatim: bool,
}

/// What one command shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Facts about the one thing asked for; empty for lists.
    pub(crate) facts: Vec<Fact>,
    /// Its parts, or the list.
    pub(crate) sheet: Sheet,
    /// Further parts, each under a heading: for people only; programs have them in JSON.
    pub(crate) more: Vec<(&'static str, Sheet)>,
    /// What to say to a person instead of an empty table.
    pub(crate) nothing: &'static str,
}

/// Where and how the tool prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) painter: Painter,
}

impl Output {
    /// For this process's stdout and environment.
    pub(crate) fn for_process(format: Format) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            format,
            painter: Painter::new(std::io::stdout().is_terminal() && !no_color),
        }
    }

    /// Prints `value` as JSON, or the view of it.
    pub(crate) fn show<T: Serialize>(
        self,
        value: &T,
        view: impl FnOnce(&T) -> View,
    ) -> Result<(), ToolError> {
        write_stdout(&match self.format {
            Format::Json => json(value)?,
            Format::Table => self.painter.view(&view(value)),
            Format::Csv => csv::render(&view(value)),
            Format::Export => export::render(&view(value)),
        })
    }
}

/// `value` under the schema, indented, with a newline.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String, ToolError> {
    serde_json::to_string_pretty(&Reply::of(value))
        .map(|text| text + "\n")
        .map_err(|error| ToolError::failed(format!("the answer has no JSON: {error}")))
}

/// `value` on one line, for streams of values.
pub(crate) fn json_line<T: Serialize>(value: &T) -> Result<String, ToolError> {
    serde_json::to_string(&Reply::of(value))
        .map(|text| text + "\n")
        .map_err(|error| ToolError::failed(format!("the answer has no JSON: {error}")))
}

pub(crate) use csv::rows as csv_rows;
pub(crate) use export::pairs as export_pairs;

/// Writes data to stdout and flushes it.
pub(crate) fn write_stdout(text: &str) -> Result<(), ToolError> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => ToolError::ReaderGone,
            _ => ToolError::failed_with(
                format!("the output can't be written: {error}"),
                "look at where stdout goes: is the disk full?",
            ),
        })
}

/// Says something to the person at the terminal; nobody listening is no error.
pub(crate) fn say(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> View {
        View {
            facts: Vec::new(),
            sheet: Sheet {
                columns: vec!["path", "size_bytes", "note"],
                rows: vec![
                    vec![
                        Cell::text("/d/a b"),
                        Cell::bytes(3 << 29),
                        Cell::text("say \"hi\", twice"),
                    ],
                    vec![
                        Cell::text("/d/it's"),
                        Cell::bytes(0),
                        Cell::maybe(None::<String>),
                    ],
                ],
                verbatim: false,
            },
            more: Vec::new(),
            nothing: "nothing",
        }
    }

    #[test]
    fn json_has_the_schema_beside_the_fields() {
        let text = json(&cairn_api::Df { rows: Vec::new() }).unwrap();
        assert_eq!(text, "{\n  \"schema\": 1,\n  \"rows\": []\n}\n");
        let line = json_line(&cairn_api::Df { rows: Vec::new() }).unwrap();
        assert_eq!(line, "{\"schema\":1,\"rows\":[]}\n");
    }
}
