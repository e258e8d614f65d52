import importlib.util
import os
import sys

import qt
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

import slicer

# Installed, the engine lies beside the modules. In a source checkout it has a folder of its own.
if importlib.util.find_spec("sacroplasty") is None:
    sys.path.append(os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "SacroplastyExtension"))

#
# SacroplastyReport
#


class SacroplastyReport(ScriptedLoadableModule):
    """Indication, summary of the case, follow-up, and the report."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Sacroplasty Report")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "IGT") + ".Sacroplasty"]
        self.parent.dependencies = []
        self.parent.contributors = ["Sacroplasty contributors"]
        self.parent.helpText = _(
            "The indication checklist, the summary of the case, the course of pain over the follow-up visits, and"
            " a report of all of it. Research software, not a medical device: it supports a clinician and never "
            "replaces one."
        )
        self.parent.acknowledgementText = _("Developed by the Sacroplasty contributors.")


#
# SacroplastyReportParameterNode
#


@parameterNodeWrapper
class SacroplastyReportParameterNode:
    """
    title - Heading of the report. No name of a person.
    """

    title: str = "Sacroplasty"


#
# SacroplastyReportWidget
#


class SacroplastyReportWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)  # needed for parameter node observation
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._answerBoxes = {}

    def setup(self):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SacroplastyReport.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SacroplastyReportLogic()

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)

        self.ui.criteriaTable.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        self.ui.summaryTable.horizontalHeader().setSectionResizeMode(1, qt.QHeaderView.Stretch)
        self.ui.summaryTable.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        self.ui.followUpTable.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        self.buildCriteria()
        for visit in self.logic.visits():
            self.ui.visitComboBox.addItem(visit.text, visit.key)
        self.ui.addVisitButton.connect("clicked(bool)", self.onAddVisitButton)
        self.ui.exportPathLineEdit.connect("currentPathChanged(QString)", self.onExportPathChanged)
        self.ui.exportButton.connect("clicked(bool)", self.onExportButton)

        self.initializeParameterNode()

    def cleanup(self):
        """Called when the application closes and the module widget is destroyed."""
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """Called each time the user opens this module."""
        self.initializeParameterNode()

    def exit(self):
        """Called each time the user opens a different module."""
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        """Called just before the scene is closed."""
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        """Called just after the scene is closed."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Ensure that the parameter node exists and is observed."""
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, inputParameterNode):
        """Set and observe the parameter node; None to let go of it."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self._parameterNode = inputParameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
            self.onParametersModified()

    def buildCriteria(self):
        """One row for each question, with unknown as the answer that nobody has to choose."""
        questions = self.logic.questions()
        table = self.ui.criteriaTable
        table.setRowCount(len(questions))
        for number, question in enumerate(questions):
            item = qt.QTableWidgetItem(question.text)
            item.setToolTip(question.text)
            table.setItem(number, 0, item)
            box = qt.QComboBox()
            for text, answer in ((_("unknown"), "unknown"), (_("yes"), "yes"), (_("no"), "no")):
                box.addItem(text, answer)
            box.connect("activated(int)", lambda index, key=question.key, box=box: self.onAnswer(key, box))
            table.setCellWidget(number, 1, box)
            self._answerBoxes[question.key] = box
        table.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)

    def onAnswer(self, key, box):
        self.logic.setAnswer(key, box.itemData(box.currentIndex))
        self.showCase()

    def onParametersModified(self, caller=None, event=None):
        self.showCase()

    def showCase(self):
        """Everything on this page from the scene."""
        answers = self.logic.answers()
        for key, box in self._answerBoxes.items():
            box.setCurrentIndex(box.findData(answers.get(key, "unknown")))
        verdict = self.logic.verdict()
        self.ui.verdictLabel.text = _("✔ Indicated by the checklist") if verdict.indicated else _("✘ Not indicated")
        color = "#1b7f3b" if verdict.indicated else "#b00020"
        self.ui.verdictLabel.styleSheet = f"font-size: 14pt; font-weight: bold; color: {color};"
        self.ui.reasonsLabel.text = "\n".join(f"• {reason}" for reason in verdict.reasons)
        self.fill(self.ui.summaryTable, list(self.logic.summary().items()))
        pain = self.logic.pain()
        rows = []
        for visit in self.logic.visits():
            published = "–" if visit.published_vas is None else f"{visit.published_vas:.2f}"
            rows.append((visit.text, str(pain.get(visit.key, "–")), published))
        self.fill(self.ui.followUpTable, rows)

    @staticmethod
    def fill(table, rows):
        table.setRowCount(len(rows))
        for number, row in enumerate(rows):
            for column, text in enumerate(row):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(text)
                table.setItem(number, column, item)

    def onAddVisitButton(self):
        box = self.ui.visitComboBox
        self.logic.setPain(box.itemData(box.currentIndex), self.ui.vasSpinBox.value)
        self.showCase()

    def onExportPathChanged(self, path):
        self.ui.exportButton.enabled = bool(path)

    def onExportButton(self):
        with slicer.util.tryWithErrorDisplay(_("The report was not written."), waitCursor=True):
            page = self.logic.export(self.ui.exportPathLineEdit.currentPath, self._parameterNode.title)
            self.ui.exportPathLineEdit.addCurrentPathToHistory()
            self.ui.statusLabel.text = _("✔ Written to {path}").format(path=page)


#
# SacroplastyReportLogic
#


class SacroplastyReportLogic(ScriptedLoadableModuleLogic):
    """A few lines onto sacroplasty.scene.report; usable without the widget."""

    def getParameterNode(self):
        return SacroplastyReportParameterNode(super().getParameterNode())

    def questions(self):
        from sacroplasty.procedure.indication import QUESTIONS

        return QUESTIONS

    def visits(self):
        from sacroplasty.scene import report

        return report.VISITS

    def setAnswer(self, key, answer):
        """Record an answer: "yes", "no" or "unknown"."""
        from sacroplasty.scene import report

        report.set_answer(slicer.mrmlScene, key, answer)

    def answers(self):
        from sacroplasty.scene import report

        return report.answers(slicer.mrmlScene)

    def verdict(self):
        from sacroplasty.scene import report

        return report.indication(slicer.mrmlScene)

    def setPain(self, visit, vas):
        from sacroplasty.scene import report

        report.set_pain(slicer.mrmlScene, visit, vas)

    def pain(self):
        from sacroplasty.scene import report

        return report.pain(slicer.mrmlScene)

    def summary(self):
        from sacroplasty.scene import report

        return report.summary(slicer.mrmlScene)

    def export(self, folder, title):
        """Write report.html and case.json; returns the path of the page."""
        from sacroplasty.scene import report

        return report.export(slicer.mrmlScene, folder, title)


#
# SacroplastyReportTest
#


class SacroplastyReportTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_ChecklistNeverPassesSilently()

    def test_ChecklistNeverPassesSilently(self):
        """Without answers, and with one wrong answer, the verdict is no."""
        logic = SacroplastyReportLogic()
        self.assertFalse(logic.verdict().indicated)
        for question in logic.questions():
            logic.setAnswer(question.key, question.wanted)
        self.assertTrue(logic.verdict().indicated)
        logic.setAnswer("infection", "yes")
        self.assertFalse(logic.verdict().indicated)
        self.delayDisplay(_("Test passed"))
