//! Tables and paragraphs within the width of a terminal: words stay whole, and nothing that fits in more lines is cut.

/// The space between two columns.
const GAP: usize = 2;
/// How far what has no room in a row is set in below it.
const INDENT: usize = 4;

/// How wide a table would be.
pub(crate) fn width_of(header: &[&str], rows: &[Vec<String>]) -> usize {
    whole(&natural(header, rows))
}

/// A table: columns as wide as their content. Where that is wider than the limit, cells go on in further lines; where that
/// is not enough either, the last column goes below each row.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>], limit: Option<usize>) -> String {
    let natural = natural(header, rows);
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let all: Vec<&[String]> = std::iter::once(&header[..]).chain(rows.iter().map(Vec::as_slice)).collect();
    let Some(limit) = limit else { return render(&all, &natural, &natural, usize::MAX) };
    // So many columns stay beside one another.
    let beside = (1..=header.len()).rev().find(|columns| whole(&least(&all, *columns)) <= limit).unwrap_or(1);
    let widths = fitted(&natural[..beside], &least(&all, beside), limit);
    render(&all, &natural, &widths, limit)
}

/// Lines of no more than the limit, broken between words where there are any. They are set in as the text is, and those
/// after the first by so much more.
pub(crate) fn wrap(text: &str, limit: Option<usize>, indent: usize) -> Vec<String> {
    let Some(limit) = limit else { return vec![text.to_owned()] };
    let before = text.len() - text.trim_start_matches(' ').len();
    let limit = limit.saturating_sub(before);
    let inner = limit.saturating_sub(indent).max(1);
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text[before..].split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let room = if lines.is_empty() { limit.max(1) } else { inner };
            let used = line.chars().count();
            let gap = usize::from(used > 0);
            if used + gap + word.len() <= room {
                if gap > 0 {
                    line.push(' ');
                }
                line.extend(&word);
                break;
            }
            if used > 0 {
                lines.push(std::mem::take(&mut line));
            } else {
                lines.push(word.drain(..room).collect());
            }
        }
    }
    lines.push(line);
    for (at, line) in lines.iter_mut().enumerate() {
        line.insert_str(0, &" ".repeat(before + if at > 0 { indent } else { 0 }));
    }
    lines
}

fn natural(header: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    let widest = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([header[at].chars().count()]).max().unwrap_or(0)
    };
    (0..header.len()).map(widest).collect()
}

/// How wide columns are beside one another.
fn whole(widths: &[usize]) -> usize {
    (widths.iter().sum::<usize>() + GAP * widths.len()).saturating_sub(GAP)
}

/// How narrow the first columns can be with their words whole.
fn least(all: &[&[String]], columns: usize) -> Vec<usize> {
    let longest = |at: usize| {
        let cells = all.iter().filter_map(|row| row.get(at));
        // What is set in stays so.
        let word = |cell: &String| {
            let inner = cell.trim_start();
            let indent = cell.len() - inner.len();
            inner.split(' ').map(|word| indent + word.chars().count()).max().unwrap_or(0)
        };
        cells.map(word).max().unwrap_or(0)
    };
    (0..columns).map(longest).collect()
}

/// Takes from the widest column that can spare something until all fit.
fn fitted(natural: &[usize], least: &[usize], limit: usize) -> Vec<usize> {
    let mut widths = natural.to_vec();
    while whole(&widths) > limit {
        let spare = (0..widths.len()).filter(|at| widths[*at] > least[*at]).max_by_key(|at| widths[*at]);
        let Some(at) = spare else { break };
        widths[at] -= 1;
    }
    widths
}

fn render(all: &[&[String]], natural: &[usize], widths: &[usize], limit: usize) -> String {
    let mut lines = Vec::new();
    for row in all {
        let cells: Vec<Vec<String>> =
            row.iter().zip(widths).map(|(cell, width)| cell_lines(cell, *width)).collect();
        for at in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
            let mut line = String::new();
            for (cell, width) in cells.iter().zip(widths) {
                let text = cell.get(at).map(String::as_str).unwrap_or_default();
                line.push_str(text);
                line.extend(std::iter::repeat_n(' ', width - text.chars().count().min(*width) + GAP));
            }
            lines.push(cut(line.trim_end(), limit));
        }
        for (cell, _) in row.iter().zip(natural).skip(widths.len()).filter(|(cell, _)| !cell.is_empty()) {
            let room = limit.saturating_sub(INDENT);
            lines.extend(
                wrap(cell.trim(), Some(room), 0)
                    .into_iter()
                    .map(|line| format!("{}{line}", " ".repeat(INDENT))),
            );
        }
    }
    lines.join("\n")
}

fn cell_lines(cell: &str, width: usize) -> Vec<String> {
    if cell.chars().count() <= width {
        return vec![cell.to_owned()];
    }
    wrap(cell, Some(width), 0)
}

/// One line within the limit; that something is missing shows.
pub(crate) fn cut(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(limit.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_cells_go_on_below_themselves() {
        let rows = vec![vec!["a".into(), "long value".into()], vec!["bbb".into(), "x".into()]];
        assert_eq!(table(&["N", "VALUE"], &rows, None), "N    VALUE\na    long value\nbbb  x");
        assert_eq!(width_of(&["N", "VALUE"], &rows), 15);
        assert_eq!(table(&["N", "VALUE"], &rows, Some(15)), table(&["N", "VALUE"], &rows, None));
        assert_eq!(table(&["N", "VALUE"], &rows, Some(10)), "N    VALUE\na    long\n     value\nbbb  x");
    }

    #[test]
    fn what_has_no_room_beside_the_others_goes_below_the_row() {
        let rows = vec![
            vec![
                "1".into(),
                "2026-11-21 07:31".into(),
                "apply (uid 0)".into(),
                "a=1@0123456789ab b=2@0123456789ab".into(),
            ],
            vec!["12".into(), "2026-11-21 07:32".into(), "scale".into(), String::new()],
        ];
        assert_eq!(
            table(&["INDEX", "SINCE", "CAUSE", "SERVICES"], &rows, Some(38)),
            "INDEX  SINCE             CAUSE\n    SERVICES\n\
             1      2026-11-21 07:31  apply (uid 0)\n    a=1@0123456789ab b=2@0123456789ab\n\
             12     2026-11-21 07:32  scale"
        );
        let narrow = table(&["INDEX", "SINCE", "CAUSE", "SERVICES"], &rows, Some(20));
        assert!(narrow.lines().all(|line| line.chars().count() <= 20), "{narrow}");
        assert!(narrow.contains("b=2@0123456789ab") && narrow.contains("(uid 0)"), "{narrow}");
    }

    #[test]
    fn rows_that_are_set_in_stay_so() {
        let rows = vec![
            vec!["web".into(), "ready".into()],
            vec!["  web-1 of two".into(), "ready (1 restart)".into()],
        ];
        assert_eq!(
            table(&["SERVICE", "STATE"], &rows, Some(20)),
            "SERVICE    STATE\nweb        ready\n  web-1    ready (1\n  of two   restart)"
        );
    }

    #[test]
    fn paragraphs_keep_their_words_and_are_set_in() {
        assert_eq!(wrap("one two three", None, 2), ["one two three"]);
        assert_eq!(wrap("one two three", Some(9), 2), ["one two", "  three"]);
        assert_eq!(wrap("  one  two three", Some(11), 1), ["  one  two", "   three"]);
        assert_eq!(wrap("0123456789 a", Some(6), 2), ["012345", "  6789", "  a"]);
        assert_eq!(wrap("", Some(6), 2), [""]);
        assert_eq!((cut("abc", 3), cut("abcd", 3)), ("abc".into(), "ab…".into()));
    }
}
