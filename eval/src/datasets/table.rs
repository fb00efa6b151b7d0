//! CSV files, read as Python's `csv` module reads them, but never silently wrong.

use crate::{Error, Result, task::Row};
use std::{collections::HashMap, path::Path};

/// Columns that every file has.
const COLUMNS: [&str; 5] = ["question", "A", "B", "C", "D"];
const ANSWER: &str = "answer";
const OPTIONS: [&str; 4] = ["A", "B", "C", "D"];

/// A file's records, each with the line where it begins.
type Records = Vec<(Option<u64>, Vec<String>)>;

/// The records of a file, its header among them.
///
/// A byte order mark is dropped, and every line break, in fields too, is read as `\n`, as Python's text files do.
///
/// # Errors
/// [`Error::Csv`] with the line: not UTF-8, empty, or quotes that do not close.
fn records(file: &Path, bytes: &[u8]) -> Result<Records> {
    let malformed = |line: Option<u64>, reason: String| Error::Csv { file: file.to_owned(), line, reason };
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = bytes[..e.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        malformed(Some(line), "not UTF-8\n\nhint: save the file as UTF-8".into())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
    if text.trim().is_empty() {
        return Err(malformed(None, "the file is empty".into()));
    }
    check_quotes(&text).map_err(|(line, reason)| malformed(Some(line), reason))?;
    let mut reader = csv::ReaderBuilder::new().flexible(true).has_headers(false).from_reader(text.as_bytes());
    let mut records = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| malformed(None, e.to_string()))?;
        records.push((record.position().map(csv::Position::line), record.iter().map(str::to_owned).collect()));
    }
    Ok(records)
}

/// Refuses a row that is not one: `header` names its columns, `question` is one of them, `answer` too where there must
/// be one.
fn check(
    file: &Path,
    (line, record): &(Option<u64>, Vec<String>),
    header: &[&str],
    question: &str,
    answer: Option<&str>,
) -> Result<()> {
    let malformed = |reason: String| Error::Csv { file: file.to_owned(), line: *line, reason };
    if record.len() != header.len() {
        let reason = format!(
            "{} fields where the header has {}; is a comma or a line break unquoted?",
            record.len(),
            header.len()
        );
        return Err(malformed(reason));
    }
    let field =
        |column: &str| header.iter().zip(record).find(|(name, _)| **name == column).map_or("", |(_, value)| value);
    if field(question).trim().is_empty() {
        return Err(malformed("the question is empty".into()));
    }
    if let Some(column) = answer
        && !OPTIONS.contains(&field(column))
    {
        return Err(malformed(format!("the answer is {:?}, but must be A, B, C or D", field(column))));
    }
    Ok(())
}

/// The rows of one of C-Eval's files, with all its columns in their order.
///
/// # Errors
/// [`Error::Csv`] with the line: not UTF-8, empty, no rows, a missing or repeated column, a row of another length,
/// quotes that do not close, an empty question, a repeated id, or an answer that is none of the options.
pub(super) fn read(file: &Path, bytes: &[u8], labelled: bool) -> Result<Vec<Row>> {
    let malformed = |line: Option<u64>, reason: String| Error::Csv { file: file.to_owned(), line, reason };
    let mut records = records(file, bytes)?.into_iter();
    let (_, header) = records.next().unwrap_or_default();
    for column in COLUMNS.into_iter().chain(labelled.then_some(ANSWER)) {
        match header.iter().filter(|name| *name == column).count() {
            1 => {}
            0 => {
                let reason = format!("the column `{column}` is missing; the file has {}", header.join(", "));
                return Err(malformed(Some(1), reason));
            }
            _ => return Err(malformed(Some(1), format!("the column `{column}` appears twice"))),
        }
    }
    let names: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut rows = Vec::new();
    let mut ids: HashMap<String, u64> = HashMap::new();
    for record in records {
        check(file, &record, &names, "question", labelled.then_some(ANSWER))?;
        let (line, record) = record;
        let row: Row = header.iter().cloned().zip(record).collect();
        if let Some((_, id)) = row.iter().find(|(name, _)| name == "id")
            && let Some(first) = ids.insert(id.clone(), line.unwrap_or_default())
        {
            return Err(malformed(line, format!("the id {id} stands in line {first} too")));
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(malformed(None, "the file has a header, but no rows".into()));
    }
    Ok(rows)
}

/// Columns of a file by their place.
pub(super) struct Columns {
    /// A name for each field; `None`: it is left out.
    pub names: &'static [Option<&'static str>],
    /// Whether the first record is a header, of whatever names.
    pub has_header: bool,
    /// One of `names`, which must not be empty.
    pub question: &'static str,
    /// One of `names`, which must be one of the options.
    pub answer: &'static str,
}

/// The rows of a file whose columns have a place, and no name.
///
/// # Errors
/// [`Error::Csv`] with the line: not UTF-8, empty, no rows, a row of another length, quotes that do not close, an empty
/// question, or an answer that is none of the options.
pub(super) fn positional(file: &Path, bytes: &[u8], columns: &Columns) -> Result<Vec<Row>> {
    let header: Vec<&str> = columns.names.iter().map(|name| name.unwrap_or_default()).collect();
    let mut rows = Vec::new();
    for record in records(file, bytes)?.into_iter().skip(usize::from(columns.has_header)) {
        check(file, &record, &header, columns.question, Some(columns.answer))?;
        let fields = columns.names.iter().zip(record.1);
        rows.push(fields.filter_map(|(name, value)| Some(((*name)?.to_owned(), value))).collect());
    }
    if rows.is_empty() {
        return Err(Error::Csv { file: file.to_owned(), line: None, reason: "the file has no rows".into() });
    }
    Ok(rows)
}

/// Refuses quotes that Python's reader would guess about: a field that is quoted but not closed swallows what follows.
///
/// # Errors
/// The line where the field begins, and what is wrong.
fn check_quotes(text: &str) -> Result<(), (u64, String)> {
    let mut line = 1;
    let mut chars = text.chars().peekable();
    let mut at_start = true;
    while let Some(c) = chars.next() {
        if c != '"' || !at_start {
            at_start = c == ',' || c == '\n';
            line += u64::from(c == '\n');
            continue;
        }
        let opened = line;
        loop {
            match chars.next() {
                None => return Err((opened, "a quoted field begins here and never ends".into())),
                Some('"') if chars.peek() == Some(&'"') => drop(chars.next()),
                Some('"') => break,
                Some(c) => line += u64::from(c == '\n'),
            }
        }
        if let Some(next) = chars.peek().filter(|next| !matches!(next, ',' | '\n')) {
            let reason = format!("a quoted field is followed by {next:?}; a quote inside a field is written twice");
            return Err((line, reason));
        }
        at_start = false;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "id,question,A,B,C,D,answer\n0,q0,a,b,c,d,A\n1,\"q, \"\"1\"\"\nmore\",a,b,c,d,D\n";

    fn rows(bytes: &[u8]) -> Result<Vec<Row>> {
        read(Path::new("x_val.csv"), bytes, true)
    }

    #[track_caller]
    fn refused(text: impl AsRef<[u8]>, wanted: &str) {
        let error = rows(text.as_ref()).unwrap_err().to_string();
        assert!(error.starts_with("x_val.csv") && error.contains(wanted), "found: {error}\nwanted: {wanted}");
    }

    #[test]
    fn fields_are_pythons() {
        let rows = rows(GOOD.as_bytes()).unwrap();
        assert_eq!(rows[1][1], ("question".into(), "q, \"1\"\nmore".into()));
        assert_eq!(
            rows[0].iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["id", "question", "A", "B", "C", "D", "answer"]
        );
    }

    #[test]
    fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
        let windows = format!("\u{feff}{}", GOOD.replace('\n', "\r\n"));
        assert_eq!(rows(windows.as_bytes()).unwrap(), rows(GOOD.as_bytes()).unwrap());
        assert_eq!(rows(GOOD.trim_end().as_bytes()).unwrap(), rows(GOOD.as_bytes()).unwrap());
    }

    #[test]
    fn an_unlabelled_file_needs_no_answers() {
        let text = "id,question,A,B,C,D\n0,q,a,b,c,d\n";
        assert_eq!(read(Path::new("x"), text.as_bytes(), false).unwrap().len(), 1);
        refused(text, "line 1: the column `answer` is missing; the file has id, question, A, B, C, D");
    }

    #[test]
    fn missing_and_repeated_columns() {
        refused(GOOD.replace(",C,", ",X,"), "the column `C` is missing");
        refused(GOOD.replace(",C,", ",B,"), "the column `B` appears twice");
    }

    #[test]
    fn wrong_quotes() {
        refused(
            "id,question,A,B,C,D,answer\n0,\"q,a,b,c,d,A\n1,q,a,b,c,d,B\n",
            "line 2: a quoted field begins here and never ends",
        );
        refused("id,question,A,B,C,D,answer\n0,\"q\"x,a,b,c,d,A\n", "line 2: a quoted field is followed by 'x'");
        // A quote within an unquoted field is text, for Python as well.
        let inch = rows(b"id,question,A,B,C,D,answer\n0,5\" disk,a,b,c,d,A\n").unwrap();
        assert_eq!(inch[0][1].1, "5\" disk");
    }

    #[test]
    fn rows_of_another_length() {
        refused(
            "id,question,A,B,C,D,answer\n0,q,a,b,c,d,A\n1,q, comma,a,b,c,d,A\n",
            "line 3: 8 fields where the header has 7",
        );
    }

    #[test]
    fn empty_files() {
        refused("", "the file is empty");
        refused("\u{feff}\r\n", "the file is empty");
        refused("id,question,A,B,C,D,answer\n", "no rows");
        refused("id,question,A,B,C,D,answer\n0, ,a,b,c,d,A\n", "line 2: the question is empty");
    }

    #[test]
    fn repeated_ids() {
        refused(GOOD.replace("\n1,", "\n0,"), "line 3: the id 0 stands in line 2 too");
    }

    #[test]
    fn answers_that_are_no_option() {
        refused(GOOD.replace(",D\n", ",E\n"), "the answer is \"E\"");
        refused(GOOD.replace("d,A\n", "d,\n"), "the answer is \"\"");
    }

    #[test]
    fn other_encodings() {
        refused(b"id,question,A,B,C,D,answer\n0,\xc4\xe3,a,b,c,d,A\n", "line 2: not UTF-8");
    }

    /// All files of C-Eval, counted with Python's `csv` module; one of the test split has Windows line ends in a field.
    #[test]
    fn every_real_file_is_read() {
        let Some(ceval) = oc_tests::shared("data/ceval/formal_ceval") else { return };
        for (split, wanted) in [("dev", 260), ("val", 1346), ("test", 12342)] {
            let (mut found, mut breaks) = (0, 0);
            for entry in std::fs::read_dir(ceval.join(split)).unwrap() {
                let file = entry.unwrap().path();
                let rows = read(&file, &std::fs::read(&file).unwrap(), split != "test").unwrap();
                found += rows.len();
                let values = || rows.iter().flatten().map(|(_, value)| value);
                assert!(values().all(|value| !value.contains('\r')), "{}", file.display());
                if file.ends_with("legal_professional_test.csv") {
                    breaks = values().filter(|value| value.contains('\n')).count();
                }
            }
            assert_eq!((found, breaks), (wanted, usize::from(split == "test")), "{split}");
        }
    }

    const PLACES: Columns = Columns {
        names: &[None, Some("input"), Some("A"), Some("target")],
        has_header: true,
        question: "input",
        answer: "target",
    };

    #[test]
    fn columns_by_place() {
        let rows = positional(Path::new("x"), b"a,b,c,d\n0,q,1,B\n", &PLACES).unwrap();
        let wanted = [("input", "q"), ("A", "1"), ("target", "B")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!(rows, [wanted.to_vec()]);
        for (text, wanted) in [
            ("a,b,c,d\n0,q,1\n", "line 2: 3 fields"),
            ("a,b,c,d\n0,,1,B\n", "line 2: the question is empty"),
            ("a,b,c,d\n0,q,1,E\n", "line 2: the answer is \"E\""),
            ("a,b,c,d\n", "no rows"),
        ] {
            let error = positional(Path::new("x"), text.as_bytes(), &PLACES).unwrap_err().to_string();
            assert!(error.contains(wanted), "found: {error}\nwanted: {wanted}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(prop_oneof![Just(b'"'), Just(b','), Just(b'\n'), Just(b'A'), any::<u8>()], 0..200)) {
            drop(rows(&bytes));
            let mut after_header = b"id,question,A,B,C,D,answer\n".to_vec();
            after_header.extend(&bytes);
            drop(rows(&after_header));
        }
    }
}
