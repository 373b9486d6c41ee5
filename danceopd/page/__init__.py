"""Pages of one HTML file that open without a network: one look for all reports, charts drawn as SVG."""

from danceopd.page.charts import Chart, bar_chart, line_chart
from danceopd.page.render import data_uri, render_page, write_page

__all__ = ["Chart", "bar_chart", "data_uri", "line_chart", "render_page", "write_page"]
