"""An audit's report as it is printed and written: terminal, page, Markdown, JUnit, baseline."""
