//! The report as a page: no script and nothing from elsewhere, light or dark as its reader has it, and black on white in print.

use std::fmt::Write as _;

use countersign::html::escaped;

use super::figures::Section;

const STYLE: &str = "\
:root{color-scheme:light dark;--fg:#1a1a1a;--bg:#fff;--faint:#666;--bar:#2f6f9f}\
@media(prefers-color-scheme:dark){:root{--fg:#e6e6e6;--bg:#161616;--faint:#9a9a9a;--bar:#6fb3e0}}\
@media print{:root{--fg:#000;--bg:#fff;--faint:#444;--bar:#555}section{break-inside:avoid}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:52rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem}h2{font-size:1.1rem;margin:2rem 0 0}code,p{color:var(--faint)}svg{width:100%;height:auto}\
text{fill:var(--fg);font-size:13px}rect{fill:var(--bar)}";
/// The height of a bar with its gap, the width for names and the width for bars.
const BAR: (usize, u64, u64) = (22, 330, 400);
/// How many characters of a name are shown in a chart; all are in its title.
const NAME: usize = 44;

/// The page.
pub fn html(from: &str, to: &str, gap: Option<&str>, sections: &[Section]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"content-security-policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Report of the audit log</title>\
         <style>{STYLE}</style></head><body>\n<h1>Report of the audit log</h1>\n<p>From {} up to {}, counted from the records of the log.</p>\n",
        escaped(from),
        escaped(to)
    );
    if let Some(gap) = gap {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "<p><strong>{}</strong></p>", escaped(gap));
    }
    for section in sections {
        // As above.
        let _ = write!(
            page,
            "<section><h2>{}</h2><code>{}</code>\n{}</section>\n",
            escaped(section.title),
            escaped(&section.query),
            chart(section)
        );
    }
    page.push_str("</body></html>\n");
    page
}

fn chart(section: &Section) -> String {
    let most = section.rows.iter().map(|row| row.value).max().unwrap_or_default().max(1);
    if section.rows.is_empty() {
        return "<p>None.</p>\n".to_owned();
    }
    let (height, names, width) = BAR;
    let mut chart = format!(
        "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n",
        names + width + 90,
        section.rows.len() * height,
        escaped(section.title)
    );
    for (n, row) in section.rows.iter().enumerate() {
        let (top, length) = (n * height, row.value.saturating_mul(width) / most);
        let _ = writeln!(
            chart,
            "<g><title>{full}</title><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{names}\" y=\"{}\" width=\"{length}\" height=\"{}\"/><text x=\"{}\" y=\"{}\">{}</text></g>",
            names - 8,
            top + 15,
            top + 3,
            height - 6,
            names + length + 6,
            top + 15,
            row.value,
            full = escaped(&row.name),
            name = escaped(&row.name.chars().take(NAME).collect::<String>()),
        );
    }
    chart.push_str("</svg>\n");
    chart
}

#[cfg(test)]
mod tests {
    use super::super::figures::Row;
    use super::*;

    #[test]
    fn a_name_is_no_markup_and_nothing_comes_from_elsewhere() {
        let rows = vec![Row { name: "<script>\"'&\u{202e}".to_owned(), value: u64::MAX }];
        let page = html("a", "b", Some("gap <>"), &[Section { title: "T", query: "q".to_owned(), rows }]);
        assert!(!page.contains("<script") && !page.contains('\u{202e}'), "{page}");
        assert!(page.contains("&lt;script&gt;&quot;&#39;&amp;"), "{page}");
        assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("src="), "{page}");
    }
}
