//! CSV as RFC 4180 has it, with a header and plain line ends as Unix tools want them.

use super::{Cell, View};

/// The sheet of `view` under its columns; the facts as one row where there is no sheet.
pub(super) fn render(view: &View) -> String {
    if view.sheet.columns.is_empty() {
        let header = line(view.facts.iter().map(|fact| fact.key));
        return header + &line(view.facts.iter().map(|fact| fact.cell.raw.as_str()));
    }
    line(view.sheet.columns.iter().copied()) + &rows(&view.sheet.rows)
}

/// Rows alone, for streams whose header is out already.
pub(crate) fn rows(rows: &[Vec<Cell>]) -> String {
    rows.iter()
        .map(|row| line(row.iter().map(|cell| cell.raw.as_str())))
        .collect()
}

fn line<'a>(fields: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = fields.map(quote).collect();
    quoted.join(",") + "\n"
}

fn quote(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::sample;
    use crate::output::{Sheet, fact};

    #[test]
    fn fields_are_raw_and_quoted_only_where_they_must_be() {
        assert_eq!(
            render(&sample()),
            "path,size_bytes,note\n\
             /d/a b,1610612736,\"say \"\"hi\"\", twice\"\n\
             /d/it's,0,\n"
        );
        assert_eq!(quote("two\nlines"), "\"two\nlines\"");
    }

    #[test]
    fn facts_without_parts_are_one_row() {
        let view = View {
            facts: vec![
                fact("name", Cell::text("pg")),
                fact("size", Cell::bytes(1024)),
            ],
            sheet: Sheet::default(),
            more: Vec::new(),
            nothing: "",
        };
        assert_eq!(render(&view), "name,size\npg,1024\n");
    }
}
