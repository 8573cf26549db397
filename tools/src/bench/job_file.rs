//! Job files: sections of options, `[global]` for all that follow, `include FILE`, `;` and `#` in front of comments.

use super::job::Job;
use super::option::set;
use anyhow::{Context as _, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// What was read, in order.
#[derive(Debug, Default)]
pub struct Jobs {
    /// Options of `[global]`, as given.
    pub global: Vec<(String, String)>,
    /// One a section.
    pub jobs: Vec<Job>,
    defaults: Job,
    /// Files that are being read, each included by the one before.
    open: Vec<PathBuf>,
}

impl Jobs {
    /// Reads a job file.
    ///
    /// # Errors
    /// With the file's name and line: unreadable, an option outside of a section, or one that is unknown or makes no sense.
    pub fn read(path: &Path) -> Result<Self> {
        let mut jobs = Self::default();
        let mut section = None;
        jobs.file(path, &mut section)?;
        jobs.end(&mut section);
        ensure!(!jobs.jobs.is_empty(), "{}: no job; a section such as [job] makes one", path.display());
        Ok(jobs)
    }

    /// From a command line: `--name=NAME` starts a job, and what stands before the first belongs to it.
    ///
    /// # Errors
    /// As for [`Jobs::read`], and a job without a name.
    pub fn from_options(options: &[(String, Option<String>)]) -> Result<Self> {
        let mut jobs = Self::default();
        let mut section: Option<Job> = None;
        for (option, value) in options {
            if option == "name" && section.as_ref().is_none_or(|job| !job.name.is_empty()) {
                jobs.end(&mut section);
            }
            let defaults = &jobs.defaults;
            let job = section.get_or_insert_with(|| defaults.clone());
            let named = if job.name.is_empty() { "command line".to_owned() } else { job.name.clone() };
            set(job, &named, option, value.as_deref())?;
        }
        if let Some(job) = &section {
            ensure!(!job.name.is_empty(), "a job on the command line needs a name: --name=NAME");
        }
        jobs.end(&mut section);
        Ok(jobs)
    }

    fn end(&mut self, section: &mut Option<Job>) {
        let Some(mut job) = section.take() else { return };
        job.given.retain(|(option, _)| option != "name");
        if job.name == "global" {
            self.global.clone_from(&job.given);
            self.defaults = Job { name: String::new(), ..job };
        } else {
            job.given.retain(|option| !self.global.contains(option));
            self.jobs.push(job);
        }
    }

    fn file(&mut self, path: &Path, section: &mut Option<Job>) -> Result<()> {
        let shown = path.display();
        let cannot = || format!("cannot read the job file {shown}");
        let own = path.canonicalize().with_context(cannot)?;
        ensure!(!self.open.contains(&own), "{shown} includes itself");
        let text = std::fs::read_to_string(path).with_context(cannot)?;
        self.open.push(own);
        for (number, line) in (1..).zip(text.lines()) {
            self.line(path, line, section).with_context(|| format!("{shown}:{number}"))?;
        }
        self.open.pop();
        Ok(())
    }

    fn line(&mut self, path: &Path, line: &str, section: &mut Option<Job>) -> Result<()> {
        let line = line.split(" ;").next().unwrap_or(line).split(" #").next().unwrap_or(line).trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            return Ok(());
        }
        ensure!(!line.contains("${"), "variables of the environment are not put into job files here: {line}");
        if let Some(named) = line.strip_prefix('[') {
            let Some(name) = named.strip_suffix(']').map(str::trim).filter(|name| !name.is_empty()) else {
                bail!("a section is written [NAME]: {line}");
            };
            self.end(section);
            *section = Some(Job { name: name.into(), ..self.defaults.clone() });
            return Ok(());
        }
        if let Some(file) = line.strip_prefix("include ") {
            let included = path.parent().unwrap_or(Path::new(".")).join(file.trim());
            return self.file(&included, section);
        }
        let Some(job) = section else { bail!("{line}: an option before the first section") };
        let (option, value) = match line.split_once('=') {
            Some((option, value)) => (option.trim(), Some(value.trim())),
            None => (line, None),
        };
        let name = job.name.clone();
        ensure!(option != "name", "[{name}] name: the section names the job");
        Ok(set(job, &name, option, value)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::job::{Amount, BlockSizes};
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Jobs> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        Jobs::read(&directory.path().join(files[0].0))
    }

    #[test]
    fn global_options_hold_for_the_sections_behind_them() {
        let text =
            "; one\n[global]\nbs=8k\nrw=randread\n[a]\nsize=1m ; how much\n[global]\nbs=16k\n# two\n[b]\nstonewall\n";
        let jobs = read(&[("f", text)]).unwrap();
        let [a, b] = &jobs.jobs[..] else { panic!("{jobs:?}") };
        assert_eq!(
            (a.name.as_str(), &a.read_sizes, a.size),
            ("a", &BlockSizes::Fixed(8192), Some(Amount::Bytes(1 << 20)))
        );
        assert_eq!((b.name.as_str(), &b.read_sizes, b.stonewall), ("b", &BlockSizes::Fixed(16384), true));
        assert!(b.rw.random, "the second [global] adds to the first");
        assert_eq!(b.given, [("stonewall".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn an_included_file_goes_on_where_it_is_named() {
        let jobs = read(&[("f", "[global]\ninclude common\n[a]\n"), ("common", "bs=64k\niodepth=4\n")]).unwrap();
        assert_eq!((jobs.jobs[0].iodepth, jobs.jobs[0].block_most()), (4, 65536));
        let looped = format!("{:#}", read(&[("f", "[a]\ninclude g\n"), ("g", "include f\n")]).unwrap_err());
        assert!(looped.ends_with("f includes itself") && looped.matches(":1").count() == 1, "{looped}");
        let twice = read(&[("f", "[a]\ninclude c\n[b]\ninclude c\n"), ("c", "bs=64k\n")]).unwrap();
        assert_eq!(twice.jobs.len(), 2, "one after the other is no loop");
    }

    #[test]
    fn errors_name_file_line_section_and_option() {
        let error = format!("{:#}", read(&[("f", "[a]\nrw=read\nzoned=1\n")]).unwrap_err());
        assert!(error.contains("f:3") && error.contains("[a] zoned"), "{error}");
        for text in ["bs=4k\n", "[a\n", "[a]\nname=b\n", "[a]\nfilename=${DISK}\n", "; nothing\n", "[global]\nbs=4k\n"]
        {
            assert!(read(&[("f", text)]).is_err(), "{text}");
        }
    }

    #[test]
    fn options_before_the_first_name_belong_to_it_and_a_second_name_starts_anew() {
        let options = [("rw", "randread"), ("name", "a"), ("bs", "8k"), ("name", "b"), ("rw", "write")];
        let options: Vec<_> = options.iter().map(|(o, v)| ((*o).to_owned(), Some((*v).to_owned()))).collect();
        let jobs = Jobs::from_options(&options).unwrap().jobs;
        assert_eq!(jobs.iter().map(|job| job.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(jobs[0].rw.random && !jobs[1].rw.random);
        assert_eq!(jobs[1].block_most(), 4096);
        assert!(Jobs::from_options(&[("rw".into(), Some("read".into()))]).is_err());
    }
}
