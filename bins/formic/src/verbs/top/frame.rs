//! One picture of `formic top`, as lines that fit the terminal. Narrow ones have fewer columns, and every
//! column that there is has room for its content.

use std::time::Duration;

use formic_api::control::v1 as pb;

use super::rows::Row;
use crate::cli::Sort;
use crate::output::cut;

/// Of the terminal, in characters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) width: usize,
    pub(super) height: usize,
}

/// What there is to draw.
pub(super) struct Frame<'a> {
    pub(super) status: &'a pb::StatusResponse,
    pub(super) measures: &'a pb::MeasureResponse,
    pub(super) rows: &'a [Row],
    pub(super) sort: Sort,
    pub(super) size: Size,
    /// The engine does not answer, and this is what was seen last.
    pub(super) away: bool,
}

/// A column: its title, the width of the terminal from which it is shown, by what it is sorted, its text.
struct Column {
    title: &'static str,
    from: usize,
    sort: Option<Sort>,
    width: usize,
    text: fn(&Row) -> String,
}

const COLUMNS: [Column; 9] = [
    Column { title: "STATE", from: 0, sort: None, width: 9, text: |row| row.state.clone() },
    Column { title: "CPU%", from: 0, sort: Some(Sort::Cpu), width: 5, text: |row| some(row.cpu, percent) },
    Column { title: "MEM", from: 0, sort: Some(Sort::Memory), width: 6, text: |row| some(row.memory, bytes) },
    Column {
        title: "RST",
        from: 48,
        sort: Some(Sort::Restarts),
        width: 4,
        text: |row| row.restarts.to_string(),
    },
    Column {
        title: "PROBE",
        from: 60,
        sort: Some(Sort::Probe),
        width: 7,
        text: |row| some(row.probe, short),
    },
    Column { title: "FILES", from: 68, sort: None, width: 5, text: |row| some(row.files, |n| n.to_string()) },
    Column { title: "PIDS", from: 76, sort: None, width: 5, text: |row| some(row.pids, |n| n.to_string()) },
    Column { title: "AGE", from: 84, sort: None, width: 7, text: |row| some(row.age, age) },
    Column { title: "INSTANCE", from: 108, sort: None, width: 22, text: |row| row.instance.clone() },
];

/// Room for a name, which is what is left, in between.
const NAME: (usize, usize) = (10, 28);
/// Lines above and below the rows.
const AROUND: usize = 4;

fn some<T>(value: Option<T>, text: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "-".into(), text)
}

fn percent(value: f64) -> String {
    if value < 99.95 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// `512B`, `4.0K`, `12.3M`, `1.5G`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn bytes(value: u64) -> String {
    let mut size = value as f64;
    for unit in ["B", "K", "M", "G"] {
        if size < 999.5 {
            return if unit == "B" || size >= 99.95 {
                format!("{size:.0}{unit}")
            } else {
                format!("{size:.1}{unit}")
            };
        }
        size /= 1024.0;
    }
    format!("{size:.1}T")
}

fn short(time: Duration) -> String {
    match time.as_micros() {
        micros @ 0..1000 => format!("{micros}µs"),
        micros @ 1000..100_000 => {
            format!("{:.1}ms", Duration::from_micros(u64::try_from(micros).unwrap_or(0)).as_secs_f64() * 1e3)
        }
        _ if time.as_secs() == 0 => format!("{}ms", time.as_millis()),
        _ => format!("{:.1}s", time.as_secs_f64()),
    }
}

fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

// === impl Size ===

impl Size {
    /// Of the one on standard output; of none, 80 by 24.
    pub(super) fn of_terminal() -> Self {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        let of = |cells: u16, usual: usize| if cells == 0 { usual } else { usize::from(cells) };
        Self {
            width: size.map_or(80, |size| of(size.ws_col, 80)).max(20),
            height: size.map_or(24, |size| of(size.ws_row, 24)).max(AROUND + 1),
        }
    }
}

// === impl Frame ===

impl Frame<'_> {
    /// So many rows can be scrolled away.
    pub(super) fn last_offset(&self) -> usize {
        self.rows.len().saturating_sub(self.size.height - AROUND)
    }

    fn engine(&self) -> String {
        if self.away { "engine  does not answer; this was seen last".into() } else { engine(self.measures) }
    }

    /// All lines, no longer than the terminal is wide and no more than it is high.
    pub(super) fn lines(&self, offset: usize) -> Vec<String> {
        let width = self.size.width;
        let mut lines = vec![cut(&summary(self.status, self.rows), width), cut(&self.engine(), width)];
        let table = table(self.rows, self.sort, width);
        let room = self.size.height - AROUND;
        lines.push(table[0].clone());
        lines.extend(table.into_iter().skip(1 + offset).take(room));
        let below = self.rows.len().saturating_sub(offset + room);
        let more = if offset + below > 0 { format!("  ↑{offset} ↓{below}") } else { String::new() };
        lines.resize(self.size.height - 1, String::new());
        lines.push(cut(&format!("q quit  s sort  ↑↓ scroll{more}"), width));
        lines
    }
}

/// The whole picture without a screen.
pub(super) fn once(
    status: &pb::StatusResponse,
    measures: &pb::MeasureResponse,
    rows: &[Row],
    sort: Sort,
    width: usize,
) -> String {
    let mut lines = vec![cut(&summary(status, rows), width), cut(&engine(measures), width)];
    lines.extend(table(rows, sort, width));
    lines.join("\n")
}

fn summary(status: &pb::StatusResponse, rows: &[Row]) -> String {
    let ready = rows.iter().filter(|row| row.state == "ready").count();
    let memory: u64 = rows.iter().filter_map(|row| row.memory).sum();
    let cpu: f64 = rows.iter().filter_map(|row| row.cpu).sum();
    let instances = rows.iter().filter(|row| !row.instance.is_empty()).count();
    format!(
        "{}  {ready}/{instances} ready  {} cpu  {} mem  index {}",
        status.app,
        percent(cpu) + "%",
        bytes(memory),
        status.index
    )
}

fn engine(measures: &pb::MeasureResponse) -> String {
    let engine = measures.engine.as_option().cloned().unwrap_or_default();
    let mean = |nanos: u64, count: u64| short(Duration::from_nanos(nanos.checked_div(count).unwrap_or(0)));
    format!(
        "engine  queue {}  turn {}  fsync {}  {} events",
        engine.queue,
        mean(engine.turns_nanos, engine.turns),
        mean(engine.writes_nanos, engine.writes),
        engine.events
    )
}

/// A service with its slot, which is what tells rows apart and stays.
fn short_name(row: &Row, width: usize) -> String {
    let slot = if row.instance.is_empty() { String::new() } else { format!("/{}", row.slot) };
    format!("{}{slot}", cut(&row.service, width.saturating_sub(slot.len())))
}

/// A header and a line for each row.
fn table(rows: &[Row], sort: Sort, width: usize) -> Vec<String> {
    let columns: Vec<&Column> = COLUMNS.iter().filter(|column| column.from <= width).collect();
    let taken: usize = columns.iter().map(|column| column.width + 1).sum();
    let longest = rows.iter().map(|row| short_name(row, usize::MAX).chars().count()).max().unwrap_or(0);
    let name = longest.min(width.saturating_sub(taken)).clamp(NAME.0, NAME.1);
    let mark = |title: &str, is: bool| if is { format!("{title}*") } else { title.to_owned() };
    let mut header = format!("{:name$}", mark("SERVICE", sort == Sort::Name));
    for column in &columns {
        let title = mark(column.title, column.sort == Some(sort));
        header.push_str(&aligned(&title, column));
    }
    let mut lines = vec![cut(header.trim_end(), width)];
    for row in rows {
        let mut line = format!("{:name$}", short_name(row, name));
        for column in &columns {
            line.push_str(&aligned(&cut(&(column.text)(row), column.width), column));
        }
        lines.push(cut(line.trim_end(), width));
    }
    lines
}

/// Words to the left, numbers to the right.
fn aligned(text: &str, column: &Column) -> String {
    let width = column.width;
    if matches!(column.title, "STATE" | "INSTANCE") {
        format!(" {text:width$}")
    } else {
        format!(" {text:>width$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(service: &str, slot: u32) -> Row {
        Row {
            service: service.into(),
            instance: format!("{service}-0123abcd"),
            slot,
            state: "ready".into(),
            cpu: Some(12.34),
            memory: Some(12_900_000),
            pids: Some(9),
            files: Some(42),
            restarts: 1,
            probe: Some(Duration::from_micros(1234)),
            age: Some(Duration::from_secs(3725)),
            ..Row::default()
        }
    }

    fn draw(rows: &[Row], width: usize, height: usize, offset: usize) -> Vec<String> {
        let status = pb::StatusResponse { app: "shop".into(), index: 3, ..Default::default() };
        let measures = pb::MeasureResponse::default();
        let size = Size { width, height };
        Frame { status: &status, measures: &measures, rows, sort: Sort::Cpu, size, away: false }.lines(offset)
    }

    #[test]
    fn forty_columns_keep_what_matters_whole() {
        let rows = [row("order", 0), row("a-service-with-a-long-name", 10)];
        let lines = draw(&rows, 40, 10, 0);
        assert_eq!(lines.len(), 10);
        assert!(lines.iter().all(|line| line.chars().count() <= 40), "{lines:#?}");
        assert_eq!(lines[0], "shop  2/2 ready  24.7% cpu  24.6M mem  …");
        assert_eq!(lines[2], "SERVICE           STATE     CPU%*    MEM");
        assert_eq!(lines[3], "order/0           ready      12.3  12.3M");
        assert_eq!(lines[4], "a-service-wit…/10 ready      12.3  12.3M");
        assert_eq!(lines[9], "q quit  s sort  ↑↓ scroll");
    }

    #[test]
    fn wide_terminals_show_all() {
        let lines = draw(&[row("order", 0)], 120, 8, 0);
        for part in ["RST", "PROBE", "FILES", "PIDS", "AGE", "INSTANCE"] {
            assert!(lines[2].contains(part), "{}", lines[2]);
        }
        for part in ["1.2ms", "42", "9", "1h02m", "order-0123abcd"] {
            assert!(lines[3].contains(part), "{}", lines[3]);
        }
    }

    #[test]
    fn rows_that_have_no_room_are_scrolled_to() {
        let rows: Vec<Row> = (0..10).map(|slot| row("order", slot)).collect();
        let lines = draw(&rows, 60, 8, 3);
        assert!(lines[3].starts_with("order/3") && lines[6].starts_with("order/6"), "{lines:#?}");
        assert!(lines[7].ends_with("↑3 ↓3"), "{}", lines[7]);
    }

    #[test]
    fn numbers_are_short() {
        let sizes = [0, 1023, 1024, 12_900_000, 1 << 31, 1 << 50].map(bytes);
        assert_eq!(sizes, ["0B", "1.0K", "1.0K", "12.3M", "2.0G", "1024.0T"]);
        let times = [900, 1_500, 250_000, 2_500_000].map(|micros| short(Duration::from_micros(micros)));
        assert_eq!(times, ["900µs", "1.5ms", "250ms", "2.5s"]);
        let ages = [5, 65, 3_700, 90_000].map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(ages, ["5s", "1m05s", "1h01m", "1d01h"]);
        assert_eq!((percent(3.12), percent(250.0)), ("3.1".into(), "250".into()));
    }
}
