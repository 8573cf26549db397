//! The manual pages: from docs/man/NAME.SECTION.md to what man(1) shows.
//!
//! Understands what the pages use: headings, paragraphs, definition lists, tables, indented code, emphasis (an argument) and code (what is typed).

use crate::command::root;
use anyhow::{Context, ensure};
use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use roff::{Inline, Roff, bold, italic, roman};
use std::fs;

/// A page to install.
pub struct Page {
    pub section: String,
    /// NAME.SECTION
    pub file: String,
    pub roff: String,
}

/// All pages.
pub fn pages() -> anyhow::Result<Vec<Page>> {
    let folder = root().join("docs/man");
    let mut pages = Vec::new();
    for file in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = file?.path();
        let file = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_string();
        let Some((name, section)) = file.rsplit_once('.') else { continue };
        ensure!(section.parse::<u8>().is_ok(), "{}: the name is not NAME.SECTION.md", path.display());
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let roff = convert(name, section, &text);
        pages.push(Page { section: section.to_string(), file, roff });
    }
    pages.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(pages)
}

/// Text gathered for the next line, with its fonts.
#[derive(Default)]
struct Writer {
    out: Roff,
    line: Vec<Inline>,
    heading: String,
    in_heading: bool,
    in_emphasis: bool,
    in_code: bool,
    cells: Vec<String>,
    in_cell: bool,
    rows: Vec<Vec<String>>,
    in_definition: bool,
}

impl Writer {
    fn push(&mut self, text: &str) {
        if self.in_heading {
            self.heading.push_str(text);
        } else if self.in_cell {
            if let Some(cell) = self.cells.last_mut() {
                cell.push_str(text);
            }
        } else if self.in_emphasis {
            self.line.push(italic(text));
        } else {
            self.line.push(roman(text));
        }
    }

    fn end_line(&mut self) {
        if !self.line.is_empty() {
            let line = std::mem::take(&mut self.line);
            self.out.text(line);
        }
    }

    /// A table as tbl(1) would need a preprocessor: so one paragraph a row, the first cell in front.
    fn end_table(&mut self) {
        for row in std::mem::take(&mut self.rows).into_iter().skip(1) {
            let (first, rest) =
                row.split_first().map_or((String::new(), Vec::new()), |(first, rest)| (first.clone(), rest.to_vec()));
            self.out.control("TP", []);
            self.out.text([bold(first)]);
            self.out.text([roman(rest.join(" - "))]);
        }
    }

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(Tag::Heading { .. }) => {
                self.in_heading = true;
                self.heading.clear();
            }
            Event::End(TagEnd::Heading(level)) => {
                self.in_heading = false;
                let heading = std::mem::take(&mut self.heading);
                match level {
                    HeadingLevel::H1 => {}
                    HeadingLevel::H2 => drop(self.out.control("SH", [heading.as_str()])),
                    _ => drop(self.out.control("SS", [heading.as_str()])),
                }
            }
            Event::Start(Tag::Paragraph) if !self.in_definition => drop(self.out.control("PP", [])),
            Event::End(TagEnd::Paragraph) => self.end_line(),
            Event::Start(Tag::DefinitionListTitle) => drop(self.out.control("TP", [])),
            Event::End(TagEnd::DefinitionListTitle) => self.end_line(),
            Event::Start(Tag::DefinitionListDefinition) => self.in_definition = true,
            Event::End(TagEnd::DefinitionListDefinition) => {
                self.end_line();
                self.in_definition = false;
            }
            Event::Start(Tag::CodeBlock(_)) => {
                self.in_code = true;
                self.out.control("PP", []);
                self.out.control("RS", ["4"]);
                self.out.control("nf", []);
            }
            Event::End(TagEnd::CodeBlock) => {
                self.in_code = false;
                self.out.control("fi", []);
                self.out.control("RE", []);
            }
            Event::Start(Tag::Emphasis) => self.in_emphasis = true,
            Event::End(TagEnd::Emphasis) => self.in_emphasis = false,
            Event::Start(Tag::TableHead | Tag::TableRow) => self.cells.clear(),
            Event::End(TagEnd::TableHead | TagEnd::TableRow) => self.rows.push(std::mem::take(&mut self.cells)),
            Event::Start(Tag::TableCell) => {
                self.in_cell = true;
                self.cells.push(String::new());
            }
            Event::End(TagEnd::TableCell) => self.in_cell = false,
            Event::End(TagEnd::Table) => self.end_table(),
            Event::Text(text) if self.in_code => {
                for line in text.lines() {
                    self.out.text([roman(line)]);
                }
            }
            Event::Text(text) => self.push(&text),
            Event::Code(text) if self.in_heading || self.in_cell => self.push(&text),
            Event::Code(text) => self.line.push(bold(text.to_string())),
            Event::SoftBreak | Event::HardBreak => self.push(" "),
            _ => {}
        }
    }
}

fn convert(name: &str, section: &str, text: &str) -> String {
    let mut writer = Writer::default();
    writer.out.control("TH", [name.to_uppercase().as_str(), section, "", "envoyfs", ""]);
    for event in Parser::new_ext(text, Options::ENABLE_TABLES | Options::ENABLE_DEFINITION_LIST) {
        writer.event(event);
    }
    writer.end_line();
    writer.out.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pages_use_is_converted() {
        let roff = convert(
            "tool",
            "8",
            "# tool(8)\n\n## OPTIONS\n`-f`, `--force` *FILE*\n:   Over `it`.\n\n| a | b |\n|---|---|\n| 1 | one |\n\n    run it\n",
        );
        for part in [
            ".TH TOOL 8",
            ".SH OPTIONS",
            ".TP\n\\fB\\-f\\fR, \\fB\\-\\-force\\fR \\fIFILE\\fR\nOver \\fBit\\fR.",
            "\\fB1\\fR\none",
            ".nf\nrun it\n.fi",
        ] {
            assert!(roff.contains(part), "{part}\n{roff}");
        }
    }

    #[test]
    fn every_page_has_its_sections_and_nothing_of_markdown_left() {
        let pages = pages().unwrap();
        assert!(pages.len() >= 5);
        for page in pages {
            for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "SEE ALSO"] {
                assert!(
                    page.roff.contains(&format!(".SH {section}")) || page.roff.contains(&format!(".SH \"{section}\"")),
                    "{}: no {section}",
                    page.file
                );
            }
            for left in ["\n## ", "\n:   ", "|---", "`-"] {
                assert!(!page.roff.contains(left), "{}: {left:?} is left", page.file);
            }
        }
    }
}
