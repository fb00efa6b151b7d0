//! Tables as Python's `tabulate` prints them in its `simple` format.

/// Lays out `rows` below `header`. A column whose cells are all numbers stands on the right, any other on the left;
/// no column is narrower than its header and two spaces.
pub(crate) fn tabulate(header: &[&str], rows: &[Vec<String>]) -> String {
    let columns: Vec<Column> = header
        .iter()
        .enumerate()
        .map(|(i, title)| {
            let cells = || rows.iter().map(|row| row[i].as_str());
            let widest = cells().map(width).max().unwrap_or(0);
            Column { width: widest.max(width(title) + 2), is_number: !rows.is_empty() && cells().all(is_number) }
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = String>| {
        let padded: Vec<String> = columns.iter().zip(cells).map(|(column, cell)| column.pad(&cell)).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![
        line(&mut header.iter().map(|title| (*title).to_owned())),
        line(&mut columns.iter().map(|column| "-".repeat(column.width))),
    ];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().cloned())));
    lines.join("\n")
}

struct Column {
    width: usize,
    is_number: bool,
}

impl Column {
    fn pad(&self, cell: &str) -> String {
        let padding = " ".repeat(self.width.saturating_sub(width(cell)));
        if self.is_number { padding + cell } else { format!("{cell}{padding}") }
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Digits with at most one point, or Python's `nan`. `tabulate` also takes `12e345` for a number and would print the prompt version
/// `123e05` as `12300000.00`; such a version stays text here.
fn is_number(cell: &str) -> bool {
    if cell == "nan" {
        return true;
    }
    let digits = cell.strip_prefix('-').unwrap_or(cell);
    let is_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    digits.bytes().any(|b| b.is_ascii_digit()) && is_digits(whole) && is_digits(fraction)
}

/// Comma-separated, as OpenCompass writes it: without quotes.
pub(crate) fn comma_separated(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = header.join(",") + "\n";
    for row in rows {
        text += &(row.join(",") + "\n");
    }
    text
}

/// Markdown, in OpenCompass's spelling.
pub(crate) fn markdown(header: &[&str], rows: &[Vec<String>]) -> String {
    let rule = vec!["-----"; header.len()].join(" | ");
    let mut text = format!("| {} |\n|{rule}|\n", header.join(" | "));
    for row in rows {
        text += &format!("| {} |\n", row.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(cells: &[&[&str]]) -> Vec<Vec<String>> {
        cells.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    /// Both tables were printed by tabulate 0.9.0.
    #[test]
    fn numbers_stand_on_the_right_and_text_on_the_left() {
        let header = ["dataset", "version", "metric", "mode", "m_hf"];
        let numbers = rows(&[&["ceval-accountant", "002837", "accuracy", "gen", "24.49"]]);
        let wanted = "dataset             version  metric    mode      m_hf\n\
                      ----------------  ---------  --------  ------  ------\n\
                      ceval-accountant     002837  accuracy  gen      24.49";
        assert_eq!(tabulate(&header, &numbers), wanted);
        let text = rows(&[&["a", "db9ce2", "accuracy", "gen", "100.00"], &["b", "-", "-", "-", "-"]]);
        let wanted = "dataset    version    metric    mode    m_hf\n\
                      ---------  ---------  --------  ------  ------\n\
                      a          db9ce2     accuracy  gen     100.00\n\
                      b          -          -         -       -";
        assert_eq!(tabulate(&header, &text), wanted);
    }

    #[test]
    fn a_version_is_never_printed_as_another_number() {
        let header = ["version"];
        assert!(tabulate(&header, &rows(&[&["123e05"]])).ends_with("\n123e05"));
        assert!(tabulate(&header, &[]).ends_with("---------"));
        assert!(!is_number("-") && !is_number("") && !is_number(".") && is_number("9.52") && is_number("nan"));
    }
}
