"""A backend of Matplotlib that saves what a script shows, as ``figure_<number>.png`` in the working directory."""

from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg

FigureCanvas = FigureCanvasAgg


def show(*args, **kwargs):
    for number in plt.get_fignums():
        plt.figure(number).savefig(f"figure_{number}.png")
